"""One check for each knob of a policy, as data: expected, actual, verdict, and what to do. Trust zone: every TEE.

A check reads claims and one knob's value, decides, and explains itself; ``appraise.py`` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, unique
from types import MappingProxyType
from typing import Any

from trusted.attestation.claims import AbiVersion, Claims, CrlStatus, FirmwareVersion, InstanceKey, Tcb
from trusted.attestation.roots import Assurance
from trusted.attestation.rules import (
    Demand,
    MitigationRule,
    Permission,
    PlatformRule,
    ProviderRule,
    ReferenceValue,
    RevocationRule,
    TcbFloor,
    write_time,
)
from trusted.errors import Reason


@unique
class Verdict(Enum):
    """What came of one check."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison of an appraisal, in words for people.

    Attributes:
        claim: what was looked at: a knob's name, or ``report_data``, ``host_data``, ``cxl``.
        expected, actual: what the policy wants and what the evidence says. Public values only.
        verdict: what came of it.
        reason: why evidence is refused when this check fails.
        remedy: what to do about a failure.
    """

    claim: str
    expected: str
    actual: str
    verdict: Verdict
    reason: Reason
    remedy: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What checks look at: verified claims, the assurance that their root gives, and the time."""

    claims: Claims
    assurance: Assurance
    now: datetime


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. ``reason`` stands where it is not the check's usual one."""

    expected: str
    actual: str
    verdict: Verdict
    reason: Reason | None = None


def _finding(holds: bool, expected: str, actual: str) -> Finding:
    return Finding(expected, actual, Verdict.PASS if holds else Verdict.FAIL)


def _on_off(flag: bool) -> str:
    return "on" if flag else "off"


def _names(values: tuple[str, ...] | frozenset[str] | list[str]) -> str:
    return ", ".join(sorted(values)) or "none"


def _products(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    product = subject.claims.platform.product
    return _finding(product in allowed, f"one of {_names(allowed)}", product)


def _measurements(subject: Subject, references: tuple[ReferenceValue, ...]) -> Finding:
    """The window of a reference value closes at ``until``, to the second."""
    measurement = subject.claims.launch.measurement
    open_values = [item.value for item in references if item.until is None or subject.now < item.until]
    expected = f"one of {len(open_values)} measurements"
    if measurement not in open_values and any(item.value == measurement for item in references):
        expected += "; this one's overlap window is over"
    return _finding(measurement in open_values, expected, measurement.hex())


def _minimum_version(subject: Subject, minimum: int) -> Finding:
    return _finding(subject.claims.report_version >= minimum, f"at least {minimum}", str(subject.claims.report_version))


def _tcb_finding(product: str, tcb: Tcb, rule: TcbFloor) -> Finding:
    floor = rule.of(product)
    if floor is None:
        return Finding(f"a floor for {product}", "none set", Verdict.FAIL, Reason.POLICY_UNSET)
    return _finding(not tcb.below(floor), f"at least {floor}", str(tcb))


def _minimum_tcb(subject: Subject, rule: TcbFloor) -> Finding:
    return _tcb_finding(subject.claims.platform.product, subject.claims.platform.tcb.reported, rule)


def _minimum_launch_tcb(subject: Subject, rule: TcbFloor) -> Finding:
    return _tcb_finding(subject.claims.platform.product, subject.claims.platform.tcb.launch, rule)


def _minimum_guest_svn(subject: Subject, minimum: int) -> Finding:
    return _finding(
        subject.claims.launch.guest_svn >= minimum, f"at least {minimum}", str(subject.claims.launch.guest_svn)
    )


def _minimum_firmware(subject: Subject, minimum: FirmwareVersion) -> Finding:
    current = subject.claims.platform.firmware.current
    return _finding(current >= minimum, f"at least {minimum}", str(current))


def _provisional_firmware(subject: Subject, permission: Permission) -> Finding:
    platform = subject.claims.platform
    committed = platform.tcb.committed == platform.tcb.current
    committed = committed and platform.firmware.committed == platform.firmware.current
    actual = "committed" if committed else "provisional: can be rolled back"
    return _permitted(permission, not committed, "committed", actual)


def _permitted(permission: Permission, present: bool, expected: str, actual: str) -> Finding:
    if permission is Permission.ALLOW:
        return _finding(True, f"{expected} or not", actual)
    return _finding(not present, expected, actual)


def _debug(subject: Subject, permission: Permission) -> Finding:
    return _permitted(permission, subject.claims.launch.debug, "off", _on_off(subject.claims.launch.debug))


def _migration(subject: Subject, permission: Permission) -> Finding:
    migratable = subject.claims.launch.migratable
    return _permitted(permission, migratable, "off", _on_off(migratable))


def _smt(subject: Subject, permission: Permission) -> Finding:
    smt = "smt" in subject.claims.launch.guest_flags
    return _permitted(permission, smt, "off", _on_off(smt))


def _single_socket(subject: Subject, demand: Demand) -> Finding:
    single = "single_socket" in subject.claims.launch.guest_flags
    if demand is Demand.ANY:
        return _finding(True, "on or off", _on_off(single))
    return _finding(single, "on", _on_off(single))


def _vmpl(subject: Subject, level: int) -> Finding:
    return _finding(subject.claims.vmpl == level, str(level), str(subject.claims.vmpl))


def _platform_info(subject: Subject, rule: PlatformRule) -> Finding:
    flags = subject.claims.platform.flags
    holds = flags.issuperset(rule.require) and flags.isdisjoint(rule.refuse)
    return _finding(holds, f"on: {_names(rule.require)}; off: {_names(rule.refuse)}", f"on: {_names(flags)}")


def _chip_ids(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    hardware_id = subject.claims.platform.hardware_id
    return _finding(hardware_id in allowed, f"one of {len(allowed)} chips", hardware_id.hex())


def milan_without_chip_ids(subject: Subject) -> Finding | None:
    """What a skipped ``chip_ids`` means: nothing, except for a Milan chip's own key.

    MilanLaunchy and BadFuse (arXiv 2605.12990) extract Milan's VCEK seed in software, and with it forge reports of any
    TCB. No floor helps against that; only the knowledge of whose chip it is (attestation.md 6.5).
    """
    platform = subject.claims.platform
    if platform.product != "Milan" or platform.instance_key is not InstanceKey.CHIP:
        return None
    return Finding("a list of the Milan chips that are trusted", platform.hardware_id.hex(), Verdict.FAIL)


def _denied_chip_ids(subject: Subject, denied: tuple[bytes, ...]) -> Finding:
    hardware_id = subject.claims.platform.hardware_id
    return _finding(hardware_id not in denied, f"none of {len(denied)} chips", hardware_id.hex())


def _vlek(subject: Subject, rule: ProviderRule) -> Finding:
    platform = subject.claims.platform
    if platform.instance_key is InstanceKey.CHIP:
        return _finding(True, "a chip's key", "a chip's key")
    expected = f"a chip's key, or one of the providers {_names(rule.providers)}"
    return _finding(platform.provider in rule.providers, expected, f"provider {platform.provider}")


def _author_keys(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    return _key_finding(subject.claims.launch.author_key, allowed)


def _id_keys(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    return _key_finding(subject.claims.launch.id_key, allowed)


def _key_finding(digest: bytes | None, allowed: tuple[bytes, ...]) -> Finding:
    return _finding(digest in allowed, f"one of {len(allowed)} keys", "none" if digest is None else digest.hex())


def _family_id(subject: Subject, expected: bytes) -> Finding:
    return _finding(subject.claims.launch.family_id == expected, expected.hex(), subject.claims.launch.family_id.hex())


def _image_id(subject: Subject, expected: bytes) -> Finding:
    return _finding(subject.claims.launch.image_id == expected, expected.hex(), subject.claims.launch.image_id.hex())


def _minimum_abi(subject: Subject, minimum: AbiVersion) -> Finding:
    actual = subject.claims.launch.minimum_abi
    return _finding(actual >= minimum, f"at least {minimum}", str(actual))


def _mitigations(subject: Subject, rule: MitigationRule) -> Finding:
    """A report without vectors (before version 5) has no bit set, which is too few even when none is asked for."""
    pairs = (
        ("launch", rule.launch, subject.claims.launch.mitigations),
        ("current", rule.current, subject.claims.platform.mitigations),
    )
    missing = [name for name, bits, vector in pairs if vector is None or any(not vector >> bit & 1 for bit in bits)]
    actual = "; ".join(f"{name} {'absent' if vector is None else format(vector, '#x')}" for name, _, vector in pairs)
    return _finding(not missing, f"bits set: launch {list(rule.launch)}; current {list(rule.current)}", actual)


def _revocation(subject: Subject, rule: RevocationRule) -> Finding:
    crl = subject.claims.crl
    expected = f"a valid revocation list, at most {rule.max_age_days} days old"
    if crl.status is not CrlStatus.GOOD or crl.this_update is None:
        return Finding(expected, crl.status.value, Verdict.FAIL)
    oldest = subject.now - timedelta(days=rule.max_age_days)
    return _finding(crl.this_update >= oldest, expected, f"issued {write_time(crl.this_update)}")


def _assurance(subject: Subject, minimum: Assurance) -> Finding:
    return _finding(subject.assurance.rank >= minimum.rank, f"at least {minimum.value}", subject.assurance.value)


@dataclass(frozen=True, slots=True)
class KnobCheck:
    """How one knob is checked, why evidence is refused when it fails, and what to do then."""

    look: Callable[[Subject, Any], Finding]
    reason: Reason
    remedy: str


_UPDATE_FIRMWARE = "update the machine's firmware and microcode, and fetch the chip's certificate for the new TCB"
_LAUNCH_AGAIN = "launch the guest again with the guest policy that the charter asks for"
_SIGN_IMAGE = "launch the image with the ID block that the charter asks for"

# In the order of policy.KNOBS.
KNOB_CHECKS: Mapping[str, KnobCheck] = MappingProxyType(
    {
        "products": KnobCheck(_products, Reason.PRODUCT, "use a machine of a listed product, or change the charter"),
        "measurements": KnobCheck(
            _measurements, Reason.MEASUREMENT, "run the released image, or have the members sign a new measurement"
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
        "assurance": KnobCheck(
            _assurance, Reason.ASSURANCE, "use hardware: this evidence comes from software and protects nothing"
        ),
    }
)
