"""What an appraisal says in AR4SI's eight claims (draft-ietf-rats-ar4si, section 2.3). Trust zone: every TEE.

Every claim starts at *not trusted* and is raised by the checks that were made and held: a knob that a policy skips, or
uses to allow what weakens a guest, raises nothing (the default policy of trustee is the model; attestation.md 4.1).
What no evidence of ours speaks about stays at 0, no claim: the file system, stored data, and where data came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique

from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.policies.check import Check, Subject, Verdict
from trusted.attestation.roots import Assurance
from trusted.errors import Reason
from trusted.wire import Json

# The codes of AR4SI that are used here.
NO_CLAIM = 0
AFFIRMED = 2  # recognised and not known to be bad; for configurations: the approved one
SAFE_CONFIGURATION = 3  # no known weakness, but nothing ties it to this very charter
BOOTED = 3  # approved executables were loaded at boot
UNSAFE = 32
ISOLATED = 32  # memory out of reach of other guests, though not encrypted
UNRECOGNISED_EXECUTABLES = 33
UNRECOGNISED_CONFIGURATION = 36
UNSUPPORTABLE = 96
VISIBLE = 96
UNRECOGNISED = 97


@unique
class Tier(Enum):
    """AR4SI's tiers, in JSON's spelling; each begins at its number."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"

    @classmethod
    def of(cls, code: int) -> Tier:
        """The tier of one claim. A code below 2 says nothing about trust."""
        if code >= UNSUPPORTABLE:
            return cls.CONTRAINDICATED
        if code >= UNSAFE:
            return cls.WARNING
        return cls.AFFIRMING if code >= AFFIRMED else cls.NONE


@dataclass(frozen=True, slots=True)
class TrustVector:
    """One code for each claim of AR4SI, 0 where nothing is claimed."""

    instance_identity: int = NO_CLAIM
    configuration: int = NO_CLAIM
    executables: int = NO_CLAIM
    file_system: int = NO_CLAIM
    hardware: int = NO_CLAIM
    runtime_opaque: int = NO_CLAIM
    storage_opaque: int = NO_CLAIM
    sourced_data: int = NO_CLAIM

    @property
    def status(self) -> Tier:
        """The worst tier of any claim."""
        return Tier.of(max(getattr(self, name) for name in self.__slots__))

    def to_json(self) -> dict[str, Json]:
        """The claims by AR4SI's names."""
        return {name.replace("_", "-"): getattr(self, name) for name in self.__slots__}


# Where memory is encrypted against the host, and where it is only out of its reach. A TPM alone protects none.
_ENCRYPTED = frozenset(
    {
        EvidenceFormat.SNP,
        EvidenceFormat.TDX,
        EvidenceFormat.SGX,
        EvidenceFormat.CCA,
        EvidenceFormat.NVIDIA_GPU,
        EvidenceFormat.AZURE_VTPM,
        EvidenceFormat.GCP_CS,
    }
)
_ISOLATED = frozenset({EvidenceFormat.NITRO})
# The knobs, by their names on whichever platform has them, without which a claim is not raised.
_HARDWARE_KNOBS = frozenset(
    {
        *("products", "minimum_tcb", "provisional_firmware", "revocation"),  # AMD
        *("tcb_statuses", "advisories", "minimum_tcb_evaluation"),  # Intel
        *("architectures", "driver_versions", "ocsp"),  # NVIDIA
        *("profiles", "lifecycle", "components"),  # Arm
        *("hardware", "support"),  # Google
    }
)
_SOFTWARE_KNOBS = frozenset({"rtmr1", "rtmr2", "pcr1", "pcr2", "pcrs"})


@dataclass(frozen=True, slots=True)
class _Held:
    """What the checks of one appraisal came to.

    Attributes:
        enforced: what was made to hold, and did, by the name of its check.
        open: what was skipped, or allowed though it weakens, or failed.
        reasons, open_reasons: for which evidence would be refused, the same way.
    """

    enforced: frozenset[str]
    open: frozenset[str]
    reasons: frozenset[Reason]
    open_reasons: frozenset[Reason]

    @classmethod
    def of(cls, checks: Sequence[Check], lenient: frozenset[str]) -> _Held:
        """The checks sorted; ``lenient`` names those that let through what they are about."""
        good = [check for check in checks if check.verdict is Verdict.PASS and check.claim not in lenient]
        bad = [check for check in checks if check.verdict is not Verdict.PASS or check.claim in lenient]
        return cls(
            frozenset(check.claim for check in good),
            frozenset(check.claim for check in bad),
            frozenset(check.reason for check in good),
            frozenset(check.reason for check in bad),
        )


def trust_vector(subject: Subject, checks: Sequence[Check], lenient: frozenset[str]) -> TrustVector:
    """The vector of an appraisal.

    Args:
        subject: the claims that were looked at, and what stands behind their root.
        checks: every check, as ``examine`` gives them.
        lenient: the knobs whose value lets through what they are about.
    """
    held = _Held.of(checks, lenient)
    return TrustVector(
        instance_identity=_instance_identity(subject, held),
        configuration=_configuration(held),
        executables=_executables(held),
        hardware=_hardware(subject, held),
        runtime_opaque=_runtime_opaque(subject, held),
    )


def _instance_identity(subject: Subject, held: _Held) -> int:
    """Recognised by a vendor's chain, and held against a list of machines. A key of a provider names no machine."""
    if subject.assurance is Assurance.NONE:
        return UNRECOGNISED
    if subject.assurance is Assurance.PROVIDER:
        return NO_CLAIM
    if not any(subject.claims.hardware_id):
        return NO_CLAIM
    return AFFIRMED if Reason.HARDWARE_NOT_ALLOWED in held.reasons else NO_CLAIM


def _configuration(held: _Held) -> int:
    if not held.enforced:
        return UNRECOGNISED_CONFIGURATION
    if Reason.DEBUG in held.open_reasons:
        return UNSUPPORTABLE
    if Reason.MIGRATABLE in held.open_reasons:
        return UNSAFE
    return AFFIRMED if "host_data" in held.enforced else SAFE_CONFIGURATION


def _executables(held: _Held) -> int:
    """A measurement was recognised, and so was whatever this platform measures besides it."""
    if Reason.MEASUREMENT not in held.reasons or _SOFTWARE_KNOBS & held.open:
        return UNRECOGNISED_EXECUTABLES
    return BOOTED


def _hardware(subject: Subject, held: _Held) -> int:
    """A provider's word is a warning: nobody who made the silicon says that it is there."""
    if subject.assurance is Assurance.NONE:
        return UNRECOGNISED
    if subject.assurance is Assurance.PROVIDER:
        return UNSAFE
    return UNSAFE if _HARDWARE_KNOBS & held.open else AFFIRMED


def _runtime_opaque(subject: Subject, held: _Held) -> int:
    if subject.assurance is Assurance.NONE or Reason.DEBUG in held.open_reasons:
        return VISIBLE
    if subject.claims.format in _ENCRYPTED:
        return ISOLATED if subject.assurance is Assurance.PROVIDER else AFFIRMED
    return ISOLATED if subject.claims.format in _ISOLATED else VISIBLE
