"""One check for each knob, as data: expected, actual, verdict, and what to do. Trust zone: every TEE.

A check reads claims and one knob's value, decides, and explains itself; ``appraise.py`` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, unique
from typing import Any

from trusted.attestation.claims import PlatformClaims
from trusted.attestation.policies.rules import Permission, ReferenceValue
from trusted.attestation.roots import Assurance
from trusted.errors import Reason

ASK_MORE = "use hardware where software attests, and a machine on the policy's list where possession is asked for"
# What to do where no silicon vendor's root reaches the verifier.
ASK_PROVIDER = "have the members say in the charter that a provider stands behind this root, and ask for no more"


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
    """What checks look at: verified claims, the assurance that root and policy give them, and the time."""

    claims: PlatformClaims
    assurance: Assurance
    now: datetime


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. ``reason`` stands where it is not the check's usual one."""

    expected: str
    actual: str
    verdict: Verdict
    reason: Reason | None = None


def finding(holds: bool, expected: str, actual: str) -> Finding:
    return Finding(expected, actual, Verdict.PASS if holds else Verdict.FAIL)


def on_off(flag: bool) -> str:
    return "on" if flag else "off"


def names(values: tuple[str, ...] | frozenset[str] | list[str]) -> str:
    return ", ".join(sorted(values)) or "none"


@dataclass(frozen=True, slots=True)
class KnobCheck:
    """How one knob is checked, why evidence is refused when it fails, and what to do then."""

    look: Callable[[Subject, Any], Finding]
    reason: Reason
    remedy: str


def measurements(subject: Subject, references: tuple[ReferenceValue, ...]) -> Finding:
    """The window of a reference value closes at ``until``, to the second."""
    measurement = subject.claims.measurement
    open_values = [item.value for item in references if item.until is None or subject.now < item.until]
    expected = f"one of {len(open_values)} measurements"
    if measurement not in open_values and any(item.value == measurement for item in references):
        expected += "; this one's overlap window is over"
    return finding(measurement in open_values, expected, measurement.hex())


def permitted(permission: Permission, present: bool, expected: str, actual: str) -> Finding:
    """What weakens a guest, and is there, needs the permission."""
    if permission is Permission.ALLOW:
        return finding(True, f"{expected} or not", actual)
    return finding(not present, expected, actual)


def assurance(subject: Subject, minimum: Assurance) -> Finding:
    """What stands behind the evidence, against what the policy asks for."""
    return finding(subject.assurance.reaches(minimum), f"at least {minimum.value}", subject.assurance.value)
