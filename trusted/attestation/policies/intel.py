"""The knobs that TDX and SGX share: what Intel must say of the platform underneath. Trust zone: every TEE.

What each one means for claims stands in ``intel_checks.py``. An empty list allows nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trusted.attestation.formats.dcap import INTEL_QE_VENDOR_ID
from trusted.attestation.intel_claims import SgxType, TcbStatus
from trusted.attestation.policies import rules
from trusted.attestation.policies.knob import (
    ASSURANCE,
    Knob,
    hexadecimal,
    integer,
    listed,
    number,
    octets,
    octets_list,
    value_of,
)
from trusted.attestation.policies.rules import Permission, PlatformRule, Skip
from trusted.attestation.roots import Assurance
from trusted.errors import Reason, WireError
from trusted.wire import Fields, Json

MAX_GRACE_DAYS = 1095
_MAX_SVN = 0xFFFF
_MAX_ITEMS = 1024
_ADVISORY = re.compile(r"INTEL-[A-Z]{2}-[0-9]{5}")


@dataclass(frozen=True, slots=True)
class StatusRule:
    """Intel's verdicts that are good enough. Those that mean out of date hold for ``grace_days`` after the date of
    their TCB level, and no longer."""

    allow: tuple[TcbStatus, ...]
    grace_days: int


def read_statuses(fields: Fields, key: str) -> StatusRule:
    """``{"allow": [status], "grace_days": 0 to 1095}``."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        names = rules.read_names(entry, "allow", [status.value for status in TcbStatus])
        return StatusRule(
            tuple(TcbStatus(name) for name in names), entry.integer("grace_days", low=0, high=MAX_GRACE_DAYS)
        )


def write_statuses(rule: StatusRule) -> dict[str, Json]:
    """The JSON form of :func:`read_statuses`."""
    return {"allow": [status.value for status in rule.allow], "grace_days": rule.grace_days}


def read_advisories(fields: Fields, key: str) -> tuple[str, ...]:
    """A list of distinct advisories: ``INTEL-SA-00615``."""
    found: list[str] = []
    for index, item in enumerate(fields.items(key, max_items=_MAX_ITEMS)):
        if not isinstance(item, str) or not _ADVISORY.fullmatch(item) or item in found:
            path = f"{fields.path(key)}[{index}]"
            raise WireError(Reason.MALFORMED, f"{path}: an advisory such as INTEL-SA-00615, none twice, expected")
        found.append(item)
    return tuple(found)


def read_flag_rule(known: Mapping[str, int]) -> Callable[[Fields, str], PlatformRule]:
    """``{"require": [flag], "refuse": [flag]}`` over ``known``; no flag in both."""

    def read(fields: Fields, key: str) -> PlatformRule:
        with Fields(fields.mapping(key), fields.path(key)) as entry:
            rule = PlatformRule(rules.read_names(entry, "require", known), rules.read_names(entry, "refuse", known))
        if set(rule.require) & set(rule.refuse):
            raise WireError(Reason.MALFORMED, f"{fields.path(key)}: no flag both required and refused")
        return rule

    return read


def read_sgx_types(fields: Fields, key: str) -> tuple[SgxType, ...]:
    """A list of kinds of memory protection."""
    return tuple(SgxType(name) for name in rules.read_names(fields, key, [item.value for item in SgxType]))


def write_sgx_types(types: tuple[SgxType, ...]) -> Json:
    """The JSON form of :func:`read_sgx_types`."""
    return [item.value for item in types]


def read_time(fields: Fields, key: str) -> datetime:
    """A time of docs/protocol.md §1."""
    return rules.read_time(fields.text(key), fields.path(key))


_IDS = octets_list(16)

# What follows the knobs of the guest in both platforms' tables.
PLATFORM_KNOBS: tuple[Knob, ...] = (
    Knob("minimum_qe_svn", "lowest security version of the quoting enclave", integer(0, _MAX_SVN), number),
    Knob("minimum_pce_svn", "lowest security version of the PCE, as Intel certified it", integer(0, _MAX_SVN), number),
    Knob("qe_vendor_id", "who made the quoting enclave, 16 bytes: Intel", octets(16), hexadecimal),
    Knob(
        "tcb_statuses",
        "Intel's verdicts that are good enough, and for how many days after a level's date an out-of-date one is: "
        "{allow: [status], grace_days}",
        read_statuses,
        write_statuses,
    ),
    Knob("advisories", "the only advisories that may apply: [INTEL-SA-00615]", read_advisories, listed),
    Knob("rejected_advisories", "advisories that must not apply, whatever is allowed", read_advisories, listed),
    Knob(
        "minimum_tcb_evaluation",
        "lowest TCB evaluation data number, so that old collateral hides no recovery",
        integer(0, 1 << 31),
        number,
    ),
    Knob("minimum_tcb_date", "earliest date of the platform's and the QE's TCB levels", read_time, rules.write_time),
    Knob(
        "dynamic_platform",
        "refuse platforms to which packages can be added; or allow",
        rules.read_permission,
        value_of,
    ),
    Knob("cached_keys", "refuse platforms whose keys Intel keeps; or allow", rules.read_permission, value_of),
    Knob("smt", "refuse platforms with simultaneous multithreading; or allow", rules.read_permission, value_of),
    Knob(
        "sgx_types",
        "how memory may be protected: [standard, scalable, scalable-with-integrity]",
        read_sgx_types,
        write_sgx_types,
    ),
    Knob("ppids", "the only platforms, by PPID or platform instance id, 16 bytes each", _IDS, rules.write_octets),
    Knob("denied_ppids", "platforms that may not take part, by either id", _IDS, rules.write_octets),
    Knob("fmspcs", "the only kinds of platform, 6 bytes each", octets_list(6), rules.write_octets),
    ASSURANCE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntelPlatformPolicy:
    """The knobs of :data:`PLATFORM_KNOBS`, one field each."""

    minimum_qe_svn: int | Skip
    minimum_pce_svn: int | Skip
    qe_vendor_id: bytes | Skip
    tcb_statuses: StatusRule | Skip
    advisories: tuple[str, ...] | Skip
    rejected_advisories: tuple[str, ...] | Skip
    minimum_tcb_evaluation: int | Skip
    minimum_tcb_date: datetime | Skip
    dynamic_platform: Permission | Skip
    cached_keys: Permission | Skip
    smt: Permission | Skip
    sgx_types: tuple[SgxType, ...] | Skip
    ppids: tuple[bytes, ...] | Skip
    denied_ppids: tuple[bytes, ...] | Skip
    fmspcs: tuple[bytes, ...] | Skip
    assurance: Assurance


def strict_platform() -> dict[str, Any]:
    """The values of :data:`PLATFORM_KNOBS` to start a charter from, but for ``ppids`` and ``assurance``.

    ``dynamic_platform``, ``cached_keys`` and ``smt`` are on in every cloud that was looked at (attestation.md 1.2).
    """
    return {
        "minimum_qe_svn": Skip("tcb_statuses covers the quoting enclave"),
        "minimum_pce_svn": Skip("tcb_statuses covers the PCE"),
        "qe_vendor_id": INTEL_QE_VENDOR_ID,
        "tcb_statuses": StatusRule((TcbStatus.UP_TO_DATE,), grace_days=0),
        "advisories": (),
        "rejected_advisories": (),
        "minimum_tcb_evaluation": 18,  # Intel's of February 2026
        "minimum_tcb_date": datetime(2024, 3, 13, tzinfo=UTC),
        "dynamic_platform": Permission.ALLOW,
        "cached_keys": Permission.ALLOW,
        "smt": Permission.ALLOW,
        "sgx_types": tuple(SgxType),
        "denied_ppids": (),
        "fmspcs": Skip("every kind of platform that Intel certifies may take part"),
    }
