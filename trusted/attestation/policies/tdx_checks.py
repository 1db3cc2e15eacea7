"""One check for each knob of TDX, as data. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from trusted.attestation.formats.ccel import RTMR_COUNT
from trusted.attestation.formats.dcap import TdBody
from trusted.attestation.intel_claims import TdxClaims
from trusted.attestation.policies.check import Finding, KnobCheck, Subject, finding, measurements, on_off, permitted
from trusted.attestation.policies.intel_checks import PLATFORM_CHECKS, UPDATE_PLATFORM, equal, flags, listed
from trusted.attestation.policies.rules import Demand, Permission, PlatformRule
from trusted.attestation.policies.tdx import RegisterRule
from trusted.errors import Reason


def _claims(subject: Subject) -> TdxClaims:
    if not isinstance(subject.claims, TdxClaims):
        raise TypeError("TDX claims expected")
    return subject.claims


def _td(subject: Subject) -> TdBody:
    return _claims(subject).td


def _register(number: int) -> Callable[[Subject, RegisterRule], Finding]:
    """RTMR ``number`` has a listed value, or a log explains it by listed events alone."""

    def look(subject: Subject, rule: RegisterRule) -> Finding:
        claims = _claims(subject)
        value = claims.td.rtmrs[number]
        events = None if claims.events is None else claims.events[number]
        explained = bool(events) and set(events or ()) <= set(rule.events)
        expected = f"one of {len(rule.values)} values, or events out of {len(rule.events)}"
        return finding(value in rule.values or explained, expected, value.hex())

    return look


def _event_log(subject: Subject, demand: Demand) -> Finding:
    events = _claims(subject).events
    explained = [] if events is None else [number for number in range(RTMR_COUNT) if events[number] is not None]
    actual = "no log" if events is None else f"explains {len(explained)} of {RTMR_COUNT} registers"
    if demand is Demand.ANY:
        return finding(True, "any", actual)
    return finding(len(explained) == RTMR_COUNT, "a log that leads to all four registers", actual)


def _mr_seam(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    return listed(_td(subject).mr_seam, allowed)


def _mr_signer_seam(subject: Subject, expected: bytes) -> Finding:
    return equal(_td(subject).mr_signer_seam, expected)


def _mr_config_id(subject: Subject, expected: bytes) -> Finding:
    return equal(_td(subject).mr_config_id[32:], expected)


def _mr_owner(subject: Subject, expected: bytes) -> Finding:
    return equal(_td(subject).mr_owner, expected)


def _mr_owner_config(subject: Subject, expected: bytes) -> Finding:
    return equal(_td(subject).mr_owner_config, expected)


def _xfam(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    return listed(_td(subject).xfam, allowed)


def _debug(subject: Subject, permission: Permission) -> Finding:
    debug = "debug" in _td(subject).attributes
    return permitted(permission, debug, "off", on_off(debug))


def _migration(subject: Subject, permission: Permission) -> Finding:
    td = _td(subject)
    migratable = "migratable" in td.attributes or any(td.mr_service_td or b"")
    return permitted(permission, migratable, "off", on_off(migratable))


def _td_attributes(subject: Subject, rule: PlatformRule) -> Finding:
    return flags(_td(subject).attributes, rule)


def _svn_floor(actual: bytes | None, minimum: bytes) -> Finding:
    """Each of the 16 versions by itself."""
    if actual is None:
        return finding(False, f"each at least {minimum.hex()}", "absent")
    holds = all(mine >= floor for mine, floor in zip(actual, minimum, strict=True))
    return finding(holds, f"each at least {minimum.hex()}", actual.hex())


def _minimum_tee_tcb_svn(subject: Subject, minimum: bytes) -> Finding:
    return _svn_floor(_td(subject).tee_tcb_svn, minimum)


def _minimum_tee_tcb_svn2(subject: Subject, minimum: bytes) -> Finding:
    return _svn_floor(_td(subject).tee_tcb_svn2, minimum)


_RUN_IMAGE = "boot the released image with the released command line, and hand its event log over"
_LAUNCH_AGAIN = "launch the guest again with the settings that the charter asks for"

# In the order of tdx.KNOBS.
KNOB_CHECKS: Mapping[str, KnobCheck] = MappingProxyType(
    {
        "measurements": KnobCheck(
            measurements, Reason.MEASUREMENT, "launch the released firmware, or have the members sign a new measurement"
        ),
        **{
            f"rtmr{number}": KnobCheck(_register(number), Reason.RUNTIME_MEASUREMENT, _RUN_IMAGE)
            for number in range(RTMR_COUNT)
        },
        "event_log": KnobCheck(_event_log, Reason.RUNTIME_MEASUREMENT, _RUN_IMAGE),
        "mr_seam": KnobCheck(_mr_seam, Reason.FIRMWARE_VERSION, UPDATE_PLATFORM),
        "mr_signer_seam": KnobCheck(_mr_signer_seam, Reason.FIRMWARE_VERSION, "use a TDX module that Intel signed"),
        "mr_config_id": KnobCheck(_mr_config_id, Reason.HOST_DATA, _LAUNCH_AGAIN),
        "mr_owner": KnobCheck(_mr_owner, Reason.HOST_DATA, _LAUNCH_AGAIN),
        "mr_owner_config": KnobCheck(_mr_owner_config, Reason.HOST_DATA, _LAUNCH_AGAIN),
        "xfam": KnobCheck(_xfam, Reason.GUEST_POLICY, _LAUNCH_AGAIN),
        "debug": KnobCheck(_debug, Reason.DEBUG, _LAUNCH_AGAIN),
        "migration": KnobCheck(_migration, Reason.MIGRATABLE, _LAUNCH_AGAIN),
        "td_attributes": KnobCheck(_td_attributes, Reason.GUEST_POLICY, _LAUNCH_AGAIN),
        "minimum_tee_tcb_svn": KnobCheck(_minimum_tee_tcb_svn, Reason.TCB_FLOOR, UPDATE_PLATFORM),
        "minimum_tee_tcb_svn2": KnobCheck(_minimum_tee_tcb_svn2, Reason.TCB_FLOOR, UPDATE_PLATFORM),
        **PLATFORM_CHECKS,
    }
)
