"""What a role must prove, on each platform that it may run on (docs/protocol.md §3.3). Trust zone: every TEE.

Evidence of a platform that is not named is refused, whatever it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trusted.attestation.device_policy import NO_DEVICES, ONLY_DEVICES, DeviceRules, read_devices, write_devices
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.platforms import PLATFORMS
from trusted.attestation.policies.knob import PlatformPolicy
from trusted.errors import AttestationError, Reason, WireError
from trusted.wire import Fields, Json, encode_json, sha256


@dataclass(frozen=True, slots=True)
class AppraisalPolicy:
    """What a role must prove.

    Attributes:
        platforms: what a TEE's evidence of each format must say.
        devices: which devices the TEE must hold besides, and what those must say; empty: none, and none is accepted.
    """

    platforms: Mapping[EvidenceFormat, PlatformPolicy]
    devices: DeviceRules = field(default_factory=lambda: NO_DEVICES)

    def __post_init__(self) -> None:
        """Hold the one rule between the two, whoever made the object.

        Raises:
            WireError: MALFORMED, a format is named as a TEE's and as a device's.
        """
        for format in self.platforms.keys() & self.devices.keys():
            detail = f"policy.devices.{format.value}: beside the TEE or in its place expected, not named as both"
            raise WireError(Reason.MALFORMED, detail)

    @classmethod
    def of(cls, **platforms: PlatformPolicy) -> AppraisalPolicy:
        """``AppraisalPolicy.of(snp=…)``: the keys are the formats' names."""
        return cls({EvidenceFormat(name): policy for name, policy in platforms.items()})

    @classmethod
    def from_json(cls, value: Any, name: str = "policy") -> AppraisalPolicy:
        """The policy in the JSON object ``value``, ``{format: {knob: value}}`` and perhaps ``devices``.

        Args:
            value: the object.
            name: leads the errors.

        Raises:
            WireError: no platform, one that nobody knows, or a platform's policy that does not read.
        """
        with Fields(value, name) as fields:
            platforms: dict[EvidenceFormat, PlatformPolicy] = {}
            devices = (
                read_devices(fields.mapping("devices"), fields.path("devices")) if fields.has("devices") else NO_DEVICES
            )
            for format in EvidenceFormat:
                if fields.has(format.value) and format not in ONLY_DEVICES:
                    entry = fields.mapping(format.value)
                    platforms[format] = PLATFORMS[format].policy.from_json(entry, fields.path(format.value))
        if not platforms:
            raise WireError(Reason.POLICY_UNSET, f"{name}: at least one platform expected")
        return cls(platforms, devices)

    def to_json(self) -> dict[str, Json]:
        """The JSON object that :meth:`from_json` reads."""
        platforms: dict[str, Json] = {format.value: dict(policy.to_json()) for format, policy in self.platforms.items()}
        return platforms | ({"devices": write_devices(self.devices)} if self.devices else {})

    def for_format(self, format: EvidenceFormat) -> PlatformPolicy:
        """The policy for evidence of this format.

        Raises:
            AttestationError: EVIDENCE_FORMAT: the platform is not named.
        """
        if format not in self.platforms:
            raise AttestationError(Reason.EVIDENCE_FORMAT, f"policy.{format.value}: this platform is not admitted")
        return self.platforms[format]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON."""
        return sha256(encode_json(self.to_json()))
