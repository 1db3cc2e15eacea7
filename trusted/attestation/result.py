"""The one thing that admits: an affirming attestation result (RFC 9334). Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from datetime import datetime

from trusted.attestation.claims import InstanceKey
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.policies.rules import write_time
from trusted.attestation.roots import Assurance
from trusted.attestation.trust_vector import TrustVector
from trusted.errors import AttestationError, Reason
from trusted.wire import Json

_APPRAISED = object()  # held by appraise.py alone: nothing else makes a result


@dataclass(frozen=True, slots=True)
class SkippedKnob:
    """A knob that the policy did not use, and why."""

    knob: str
    why: str


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """Evidence met a policy. There is no other kind of result: evidence that does not is refused with a reason.

    Attributes:
        format: of the evidence.
        product: processor generation.
        hardware_id: what identifies the processor (64 bytes), all zero when the key is a provider's.
        instance_key: what the signing key identifies.
        provider: who the key was given to, when it identifies a provider.
        measurement: what runs, 48 bytes.
        assurance: what stands behind it (``Assurance``); ``none`` means NO HARDWARE PROTECTION.
        skips: what the policy left unchecked.
        vector: the same in AR4SI's claims, for results that travel (``ear.py``).
        policy_digest, evidence_digest: SHA-256 of what was applied, and to what.
        issued: when it was appraised.
        expires: when certificates, revocation list or reference value run out, whichever is first.
        devices: the results of the devices that the TEE holds (docs/protocol.md §3.1).
    """

    format: EvidenceFormat
    product: str
    hardware_id: bytes
    instance_key: InstanceKey
    provider: str | None
    measurement: bytes
    assurance: Assurance
    skips: tuple[SkippedKnob, ...]
    vector: TrustVector
    policy_digest: bytes
    evidence_digest: bytes
    issued: datetime
    expires: datetime
    devices: tuple[AttestationResult, ...]
    token: InitVar[object]

    def __post_init__(self, token: object) -> None:
        """Refuse everybody but ``appraise``; ``dataclasses.replace`` cannot pass the token on."""
        if token is not _APPRAISED:
            raise RuntimeError("an AttestationResult comes from appraise() alone")

    def require_unexpired(self, now: datetime) -> None:
        """The result still stands at ``now``.

        Raises:
            AttestationError: CERT_EXPIRED.
        """
        if now > self.expires:
            raise AttestationError(Reason.CERT_EXPIRED, "attestation result: expired; attest again")

    def to_json(self) -> dict[str, Json]:
        """The result as it stands in the evidence bundle."""
        return {
            "status": "affirming",
            "format": self.format.value,
            "product": self.product,
            "hardware_id": self.hardware_id.hex(),
            "instance_key": self.instance_key.value,
            "provider": self.provider,
            "measurement": self.measurement.hex(),
            "assurance": self.assurance.value,
            "skips": [{"knob": skip.knob, "why": skip.why} for skip in self.skips],
            "policy": self.policy_digest.hex(),
            "evidence": self.evidence_digest.hex(),
            "issued": write_time(self.issued),
            "expires": write_time(self.expires),
            "devices": [device.to_json() for device in self.devices],
        }
