"""One check for each knob of SEV-SNP, as data, and what no knob can switch off. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType

from trusted.attestation.claims import (
    AbiVersion,
    CrlStatus,
    FirmwareVersion,
    InstanceKey,
    Platform,
    SnpClaims,
    Tcb,
)
from trusted.attestation.policies.check import (
    ASK_MORE,
    Check,
    Finding,
    KnobCheck,
    Subject,
    Verdict,
    assurance,
    finding,
    measurements,
    names,
    on_off,
    permitted,
)
from trusted.attestation.policies.rules import (
    Demand,
    MitigationRule,
    Permission,
    PlatformRule,
    ProviderRule,
    RevocationRule,
    Skip,
    TcbFloor,
    write_time,
)
from trusted.attestation.policies.snp import SnpPolicy
from trusted.errors import Reason


def _claims(subject: Subject) -> SnpClaims:
    if not isinstance(subject.claims, SnpClaims):
        raise TypeError("SEV-SNP claims expected")
    return subject.claims


def _products(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    product = _claims(subject).platform.product
    return finding(product in allowed, f"one of {names(allowed)}", product)


def _minimum_version(subject: Subject, minimum: int) -> Finding:
    return finding(
        _claims(subject).report_version >= minimum, f"at least {minimum}", str(_claims(subject).report_version)
    )


def _tcb_finding(platform: Platform, tcb: Tcb, rule: TcbFloor) -> Finding:
    floor = rule.of(platform.line, platform.product)
    if floor is None:
        return Finding(f"a floor for {platform.line}", "none set", Verdict.FAIL, Reason.POLICY_UNSET)
    return finding(not tcb.below(floor), f"at least {floor}", str(tcb))


def _minimum_tcb(subject: Subject, rule: TcbFloor) -> Finding:
    return _tcb_finding(_claims(subject).platform, _claims(subject).platform.tcb.reported, rule)


def _minimum_launch_tcb(subject: Subject, rule: TcbFloor) -> Finding:
    return _tcb_finding(_claims(subject).platform, _claims(subject).platform.tcb.launch, rule)


def _minimum_guest_svn(subject: Subject, minimum: int) -> Finding:
    return finding(
        _claims(subject).launch.guest_svn >= minimum, f"at least {minimum}", str(_claims(subject).launch.guest_svn)
    )


def _minimum_firmware(subject: Subject, minimum: FirmwareVersion) -> Finding:
    current = _claims(subject).platform.firmware.current
    return finding(current >= minimum, f"at least {minimum}", str(current))


def _provisional_firmware(subject: Subject, permission: Permission) -> Finding:
    platform = _claims(subject).platform
    committed = platform.tcb.committed == platform.tcb.current
    committed = committed and platform.firmware.committed == platform.firmware.current
    actual = "committed" if committed else "provisional: can be rolled back"
    return permitted(permission, not committed, "committed", actual)


def _debug(subject: Subject, permission: Permission) -> Finding:
    return permitted(permission, _claims(subject).launch.debug, "off", on_off(_claims(subject).launch.debug))


def _migration(subject: Subject, permission: Permission) -> Finding:
    migratable = _claims(subject).launch.migratable
    return permitted(permission, migratable, "off", on_off(migratable))


def _smt(subject: Subject, permission: Permission) -> Finding:
    smt = "smt" in _claims(subject).launch.guest_flags
    return permitted(permission, smt, "off", on_off(smt))


def _single_socket(subject: Subject, demand: Demand) -> Finding:
    single = "single_socket" in _claims(subject).launch.guest_flags
    if demand is Demand.ANY:
        return finding(True, "on or off", on_off(single))
    return finding(single, "on", on_off(single))


def _vmpl(subject: Subject, level: int) -> Finding:
    return finding(_claims(subject).vmpl == level, str(level), str(_claims(subject).vmpl))


def _platform_info(subject: Subject, rule: PlatformRule) -> Finding:
    flags = _claims(subject).platform.flags
    holds = flags.issuperset(rule.require) and flags.isdisjoint(rule.refuse)
    return finding(holds, f"on: {names(rule.require)}; off: {names(rule.refuse)}", f"on: {names(flags)}")


def _chip_ids(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    hardware_id = _claims(subject).platform.hardware_id
    return finding(hardware_id in allowed, f"one of {len(allowed)} chips", hardware_id.hex())


def milan_without_chip_ids(subject: Subject) -> Finding | None:
    """What a skipped ``chip_ids`` means: nothing, except for a Milan chip's own key.

    MilanLaunchy and BadFuse (arXiv 2605.12990) extract Milan's VCEK seed in software, and with it forge reports of any
    TCB. No floor helps against that; only the knowledge of whose chip it is (attestation.md 6.5).
    """
    platform = _claims(subject).platform
    if platform.product != "Milan" or platform.instance_key is not InstanceKey.CHIP:
        return None
    return Finding("a list of the Milan chips that are trusted", platform.hardware_id.hex(), Verdict.FAIL)


def _denied_chip_ids(subject: Subject, denied: tuple[bytes, ...]) -> Finding:
    hardware_id = _claims(subject).platform.hardware_id
    return finding(hardware_id not in denied, f"none of {len(denied)} chips", hardware_id.hex())


def _vlek(subject: Subject, rule: ProviderRule) -> Finding:
    platform = _claims(subject).platform
    if platform.instance_key is InstanceKey.CHIP:
        return finding(True, "a chip's key", "a chip's key")
    expected = f"a chip's key, or one of the providers {names(rule.providers)}"
    return finding(platform.provider in rule.providers, expected, f"provider {platform.provider}")


def _author_keys(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    return _key_finding(_claims(subject).launch.author_key, allowed)


def _id_keys(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    return _key_finding(_claims(subject).launch.id_key, allowed)


def _key_finding(digest: bytes | None, allowed: tuple[bytes, ...]) -> Finding:
    return finding(digest in allowed, f"one of {len(allowed)} keys", "none" if digest is None else digest.hex())


def _family_id(subject: Subject, expected: bytes) -> Finding:
    return finding(
        _claims(subject).launch.family_id == expected, expected.hex(), _claims(subject).launch.family_id.hex()
    )


def _image_id(subject: Subject, expected: bytes) -> Finding:
    return finding(_claims(subject).launch.image_id == expected, expected.hex(), _claims(subject).launch.image_id.hex())


def _minimum_abi(subject: Subject, minimum: AbiVersion) -> Finding:
    actual = _claims(subject).launch.minimum_abi
    return finding(actual >= minimum, f"at least {minimum}", str(actual))


def _mitigations(subject: Subject, rule: MitigationRule) -> Finding:
    """A report without vectors (before version 5) has no bit set, which is too few even when none is asked for."""
    pairs = (
        ("launch", rule.launch, _claims(subject).launch.mitigations),
        ("current", rule.current, _claims(subject).platform.mitigations),
    )
    missing = [name for name, bits, vector in pairs if vector is None or any(not vector >> bit & 1 for bit in bits)]
    actual = "; ".join(f"{name} {'absent' if vector is None else format(vector, '#x')}" for name, _, vector in pairs)
    return finding(not missing, f"bits set: launch {list(rule.launch)}; current {list(rule.current)}", actual)


def _revocation(subject: Subject, rule: RevocationRule) -> Finding:
    crl = _claims(subject).crl
    expected = f"a valid revocation list, at most {rule.max_age_days} days old"
    if crl.status is not CrlStatus.GOOD or crl.this_update is None:
        return Finding(expected, crl.status.value, Verdict.FAIL)
    oldest = subject.now - timedelta(days=rule.max_age_days)
    return finding(crl.this_update >= oldest, expected, f"issued {write_time(crl.this_update)}")


_UPDATE_FIRMWARE = "update the machine's firmware and microcode, and fetch the chip's certificate for the new TCB"
_LAUNCH_AGAIN = "launch the guest again with the guest policy that the charter asks for"
_SIGN_IMAGE = "launch the image with the ID block that the charter asks for"

# In the order of policy.KNOBS.
KNOB_CHECKS: Mapping[str, KnobCheck] = MappingProxyType(
    {
        "products": KnobCheck(_products, Reason.PRODUCT, "use a machine of a listed product, or change the charter"),
        "measurements": KnobCheck(
            measurements, Reason.MEASUREMENT, "run the released image, or have the members sign a new measurement"
        ),
        "minimum_version": KnobCheck(_minimum_version, Reason.REPORT_VERSION, _UPDATE_FIRMWARE),
        "minimum_tcb": KnobCheck(_minimum_tcb, Reason.TCB_FLOOR, _UPDATE_FIRMWARE),
        "minimum_launch_tcb": KnobCheck(
            _minimum_launch_tcb, Reason.TCB_FLOOR, "launch the guest again, now that the firmware is updated"
        ),
        "minimum_guest_svn": KnobCheck(_minimum_guest_svn, Reason.GUEST_SVN, "run a newer image"),
        "minimum_firmware": KnobCheck(_minimum_firmware, Reason.FIRMWARE_VERSION, _UPDATE_FIRMWARE),
        "provisional_firmware": KnobCheck(
            _provisional_firmware, Reason.PROVISIONAL_FIRMWARE, "have the machine's operator commit the firmware"
        ),
        "debug": KnobCheck(_debug, Reason.DEBUG, _LAUNCH_AGAIN),
        "migration": KnobCheck(_migration, Reason.MIGRATABLE, _LAUNCH_AGAIN),
        "smt": KnobCheck(_smt, Reason.GUEST_POLICY, _LAUNCH_AGAIN),
        "single_socket": KnobCheck(_single_socket, Reason.GUEST_POLICY, _LAUNCH_AGAIN),
        "vmpl": KnobCheck(_vmpl, Reason.VMPL, "ask for the report at the level that the charter names"),
        "platform_info": KnobCheck(
            _platform_info, Reason.PLATFORM_INFO, "change the machine's settings, or use another machine"
        ),
        "chip_ids": KnobCheck(
            _chip_ids, Reason.HARDWARE_NOT_ALLOWED, "have the members list the chip in the charter, if they know it"
        ),
        "denied_chip_ids": KnobCheck(_denied_chip_ids, Reason.HARDWARE_NOT_ALLOWED, "use another machine"),
        "vlek": KnobCheck(
            _vlek, Reason.HARDWARE_NOT_ALLOWED, "have the members list the provider, or use a chip's own key (VCEK)"
        ),
        "author_keys": KnobCheck(_author_keys, Reason.AUTHOR_KEY, _SIGN_IMAGE),
        "id_keys": KnobCheck(_id_keys, Reason.ID_KEY, _SIGN_IMAGE),
        "family_id": KnobCheck(_family_id, Reason.IMAGE_ID, _SIGN_IMAGE),
        "image_id": KnobCheck(_image_id, Reason.IMAGE_ID, _SIGN_IMAGE),
        "minimum_abi": KnobCheck(_minimum_abi, Reason.GUEST_POLICY, _LAUNCH_AGAIN),
        "mitigations": KnobCheck(_mitigations, Reason.MITIGATION, _UPDATE_FIRMWARE),
        "revocation": KnobCheck(
            _revocation, Reason.CRL_STALE, "fetch the vendor's current revocation list and attest with it"
        ),
        "assurance": KnobCheck(assurance, Reason.ASSURANCE, ASK_MORE),
    }
)


def always(subject: Subject) -> Iterator[Check]:
    """What no knob allows, so it is refused: memory behind CXL."""
    allowed = "cxl" in _claims(subject).launch.guest_flags
    verdict = Verdict.FAIL if allowed else Verdict.PASS
    remedy = "launch the guest again with a guest policy that forbids CXL memory"
    yield Check("cxl", "off", on_off(allowed), verdict, Reason.GUEST_POLICY, remedy)


def skipped(subject: Subject, knob: str) -> Finding | None:
    """The one skip that does not hold: Milan without a list of chips."""
    return milan_without_chip_ids(subject) if knob == "chip_ids" else None


def expiries(claims: SnpClaims, policy: SnpPolicy) -> Iterator[datetime]:
    """When the revocation list runs out, for its own sake and by the policy."""
    crl = claims.crl
    if not isinstance(policy.revocation, Skip) and crl.this_update is not None and crl.next_update is not None:
        yield crl.next_update
        yield crl.this_update + timedelta(days=policy.revocation.max_age_days)
