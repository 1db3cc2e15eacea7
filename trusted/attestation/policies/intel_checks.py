"""One check for each knob that TDX and SGX share, as data. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from trusted.attestation.intel_claims import IntelPlatform, PckFlag, SgxClaims, SgxType, TcbVerdict, TdxClaims
from trusted.attestation.policies.check import (
    ASK_MORE,
    Finding,
    KnobCheck,
    Subject,
    assurance,
    finding,
    names,
    permitted,
)
from trusted.attestation.policies.intel import StatusRule
from trusted.attestation.policies.rules import Permission, PlatformRule, Skip, write_time
from trusted.errors import Reason


def _platform(subject: Subject) -> IntelPlatform:
    if not isinstance(subject.claims, TdxClaims | SgxClaims):
        raise TypeError("claims of an Intel quote expected")
    return subject.claims.platform


def at_least(actual: int, minimum: int) -> Finding:
    return finding(actual >= minimum, f"at least {minimum}", str(actual))


def equal(actual: bytes, expected: bytes) -> Finding:
    return finding(actual == expected, expected.hex(), actual.hex())


def listed(actual: bytes, allowed: tuple[bytes, ...]) -> Finding:
    return finding(actual in allowed, f"one of {len(allowed)} values", actual.hex())


def flags(actual: frozenset[str], rule: PlatformRule) -> Finding:
    holds = actual.issuperset(rule.require) and actual.isdisjoint(rule.refuse)
    return finding(holds, f"on: {names(rule.require)}; off: {names(rule.refuse)}", f"on: {names(actual)}")


def _minimum_qe_svn(subject: Subject, minimum: int) -> Finding:
    return at_least(_platform(subject).qe.isv_svn, minimum)


def _minimum_pce_svn(subject: Subject, minimum: int) -> Finding:
    return at_least(_platform(subject).pck.pce_svn, minimum)


def _qe_vendor_id(subject: Subject, expected: bytes) -> Finding:
    return equal(_platform(subject).header.qe_vendor_id, expected)


def grace_end(tcb: TcbVerdict, rule: StatusRule) -> datetime | None:
    """When an out-of-date verdict stops being tolerated; None if it is not known which level it comes from.

    Intel dates each level; dcap-qvl tells the dates of the platform's and the quoting enclave's. Where neither is out
    of date the TDX module is, whose date is not told: then there is no grace.
    """
    dates = [level.date for level in (tcb.platform, tcb.qe) if level.status.is_out_of_date]
    return min(dates) + timedelta(days=rule.grace_days) if dates else None


def _tcb_statuses(subject: Subject, rule: StatusRule) -> Finding:
    tcb = _platform(subject).tcb
    expected = f"one of {names([status.value for status in rule.allow])}"
    if tcb.status not in rule.allow or not tcb.status.is_out_of_date:
        return finding(tcb.status in rule.allow, expected, tcb.status.value)
    end = grace_end(tcb, rule)
    expected += f"; out of date for at most {rule.grace_days} days"
    actual = f"{tcb.status.value} {'of an unknown date' if end is None else f'tolerated until {write_time(end)}'}"
    return finding(end is not None and subject.now <= end, expected, actual)


def _advisories(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    found = _platform(subject).tcb.advisories
    return finding(set(found) <= set(allowed), f"at most {names(allowed)}", names(found))


def _rejected_advisories(subject: Subject, rejected: tuple[str, ...]) -> Finding:
    found = _platform(subject).tcb.advisories
    return finding(not set(found) & set(rejected), f"not {names(rejected)}", names(found))


def _minimum_tcb_evaluation(subject: Subject, minimum: int) -> Finding:
    return at_least(_platform(subject).tcb.evaluation, minimum)


def _minimum_tcb_date(subject: Subject, minimum: datetime) -> Finding:
    tcb = _platform(subject).tcb
    earliest = min(tcb.platform.date, tcb.qe.date)
    return finding(earliest >= minimum, f"at or after {write_time(minimum)}", write_time(earliest))


def _flag(flag: PckFlag, permission: Permission) -> Finding:
    """A platform that does not say is not known to be free of it."""
    return permitted(permission, flag is not PckFlag.OFF, PckFlag.OFF.value, flag.value)


def _dynamic_platform(subject: Subject, permission: Permission) -> Finding:
    return _flag(_platform(subject).pck.dynamic_platform, permission)


def _cached_keys(subject: Subject, permission: Permission) -> Finding:
    return _flag(_platform(subject).pck.cached_keys, permission)


def _smt(subject: Subject, permission: Permission) -> Finding:
    return _flag(_platform(subject).pck.smt, permission)


def _sgx_types(subject: Subject, allowed: tuple[SgxType, ...]) -> Finding:
    actual = _platform(subject).pck.sgx_type
    return finding(actual in allowed, f"one of {names([item.value for item in allowed])}", actual.value)


def _ids(subject: Subject) -> tuple[bytes, ...]:
    pck = _platform(subject).pck
    return (pck.ppid,) if pck.platform_instance_id is None else (pck.ppid, pck.platform_instance_id)


def _ppids(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    ids = _ids(subject)
    return finding(any(item in allowed for item in ids), f"one of {len(allowed)} platforms", _hex(ids))


def _denied_ppids(subject: Subject, denied: tuple[bytes, ...]) -> Finding:
    ids = _ids(subject)
    return finding(not any(item in denied for item in ids), f"none of {len(denied)} platforms", _hex(ids))


def _hex(ids: tuple[bytes, ...]) -> str:
    return " ".join(item.hex() for item in ids)


def _fmspcs(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    return listed(_platform(subject).pck.fmspc, allowed)


UPDATE_PLATFORM = "update BIOS, microcode and TDX module, register the platform again, and fetch new collateral"
_OTHER_MACHINE = "use another machine, or have the members list this one in the charter, if they know it"
_SETTINGS = "change the machine's settings and register it again, or have the members allow it"

# In the order of intel.PLATFORM_KNOBS.
PLATFORM_CHECKS: Mapping[str, KnobCheck] = MappingProxyType(
    {
        "minimum_qe_svn": KnobCheck(_minimum_qe_svn, Reason.TCB_FLOOR, "update the quoting enclave (DCAP packages)"),
        "minimum_pce_svn": KnobCheck(_minimum_pce_svn, Reason.TCB_FLOOR, UPDATE_PLATFORM),
        "qe_vendor_id": KnobCheck(_qe_vendor_id, Reason.PRODUCT, "use the quoting enclave that the charter names"),
        "tcb_statuses": KnobCheck(_tcb_statuses, Reason.TCB_STATUS, UPDATE_PLATFORM),
        "advisories": KnobCheck(
            _advisories, Reason.ADVISORY, "follow the advisory, or have the members list it if it does not concern them"
        ),
        "rejected_advisories": KnobCheck(_rejected_advisories, Reason.ADVISORY, "follow the advisory"),
        "minimum_tcb_evaluation": KnobCheck(
            _minimum_tcb_evaluation, Reason.TCB_FLOOR, "fetch current collateral and attest with it"
        ),
        "minimum_tcb_date": KnobCheck(_minimum_tcb_date, Reason.TCB_FLOOR, UPDATE_PLATFORM),
        "dynamic_platform": KnobCheck(_dynamic_platform, Reason.PLATFORM_INFO, _SETTINGS),
        "cached_keys": KnobCheck(_cached_keys, Reason.PLATFORM_INFO, _SETTINGS),
        "smt": KnobCheck(_smt, Reason.PLATFORM_INFO, _SETTINGS),
        "sgx_types": KnobCheck(_sgx_types, Reason.PLATFORM_INFO, _OTHER_MACHINE),
        "ppids": KnobCheck(_ppids, Reason.HARDWARE_NOT_ALLOWED, _OTHER_MACHINE),
        "denied_ppids": KnobCheck(_denied_ppids, Reason.HARDWARE_NOT_ALLOWED, "use another machine"),
        "fmspcs": KnobCheck(_fmspcs, Reason.PRODUCT, _OTHER_MACHINE),
        "assurance": KnobCheck(assurance, Reason.ASSURANCE, ASK_MORE),
    }
)


def expiries(claims: Any, policy: Any) -> Iterator[datetime]:
    """When the days of grace of an out-of-date platform are over. Collateral counts in ``not_after`` already."""
    tcb: TcbVerdict = claims.platform.tcb
    rule: StatusRule | Skip = policy.tcb_statuses
    if not isinstance(rule, Skip) and tcb.status.is_out_of_date:
        end = grace_end(tcb, rule)
        if end is not None:
            yield end
