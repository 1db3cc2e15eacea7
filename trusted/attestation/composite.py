"""A TEE with the devices it holds, all of it under one challenge (docs/protocol.md §3.1, §3.2). Trust zone: every TEE.

A device's report says nothing about the machine around it. So the nonce that a device signs is derived from the
very transcript that the TEE's own evidence is bound to (both nonces, the prover's keys, the frames so far), and the
digests of the devices' evidence then stand in that transcript. A report of another machine's GPU, or of another
handshake, fits in no other place; that the GPU or TPM stands in this machine, and not behind a wire, is for the
measured code to see to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from trusted.attestation.appraise import Expected, appraise, verify, with_devices
from trusted.attestation.binding import report_data
from trusted.attestation.device_policy import DEVICE_FORMATS, MAX_DEVICES, ONLY_DEVICES, DeviceRules
from trusted.attestation.evidence import MAX_EVIDENCE_BYTES, Evidence
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.result import AttestationResult
from trusted.attestation.roots import TrustRoot
from trusted.errors import AttestationError, Reason, WireError
from trusted.wire import length_prefixed, pack, sha256, split_items, unpack

_LABEL = "cloister/evidence-bundle/v1"
_TRANSCRIPT = "cloister/transcript/v1"
_CHALLENGE_LABEL = b"cloister/device-challenge/v1"
# Twice this, in hexadecimal, fits into a document of 1 MiB (re-attestation).
MAX_BUNDLE_BYTES = 490 << 10
_MAX_SHARED = 64


@dataclass(frozen=True, slots=True)
class OpenTranscript:
    """A transcript that still lacks the digests of the devices' evidence: the fields before them, and after."""

    before: tuple[bytes, ...]
    after: tuple[bytes, ...] = ()

    def over(self, devices: Sequence[Evidence]) -> bytes:
        """The transcript that the TEE's own evidence is bound to, the devices' digests inside."""
        digests = length_prefixed(*(device.digest for device in devices))
        return pack(_TRANSCRIPT, *self.before, digests, *self.after)

    @property
    def device_challenge(self) -> bytes:
        """What the devices answer, 64 bytes: it stands for all of the transcript but their own evidence."""
        return hashlib.sha512(length_prefixed(_CHALLENGE_LABEL, self.over(()))).digest()


class Prover(Protocol):
    """What gives the evidence: :class:`trusted.evidence.EvidenceProvider`."""

    def evidence(self, report_data: bytes) -> Evidence: ...
    def devices(self, challenge: bytes) -> tuple[Evidence, ...]: ...


@dataclass(frozen=True, slots=True)
class EvidenceBundle:
    """The evidence of one TEE and of the devices that it holds, in its order; nothing of it is verified."""

    cpu: Evidence
    devices: tuple[Evidence, ...] = ()

    def __post_init__(self) -> None:
        """Hold the bounds, whoever made the object.

        Raises:
            WireError: TOO_LARGE. AttestationError: EVIDENCE_FORMAT, a device in the TEE's place or the reverse.
        """
        if len(self.devices) > MAX_DEVICES:
            raise WireError(Reason.TOO_LARGE, f"evidence.devices: at most {MAX_DEVICES}")
        if self.cpu.format in ONLY_DEVICES or any(device.format not in DEVICE_FORMATS for device in self.devices):
            raise AttestationError(Reason.EVIDENCE_FORMAT, "evidence: one TEE, then devices, expected")

    @classmethod
    def collect(cls, prover: Prover, transcript: OpenTranscript) -> EvidenceBundle:
        """Fresh evidence for ``transcript``: of the devices first, then of the TEE over their digests.

        Raises:
            TeeError: the platform gave none.
        """
        devices = tuple(prover.devices(transcript.device_challenge))
        return cls(prover.evidence(report_data(transcript.over(devices))), devices)

    def encode(self) -> bytes:
        """The record of docs/protocol.md §3.1. What several devices share (reference values) stands in it once.

        Raises:
            WireError: TOO_LARGE.
        """
        shared: dict[bytes, bytes] = {}
        devices: list[bytes] = []
        for device in self.devices:
            shared |= {sha256(content): content for _, content in device.parts if sha256(content) not in shared}
            parts = tuple((name, sha256(content)) for name, content in device.parts)
            devices.append(replace(device, parts=parts).encode())
        record = pack(_LABEL, self.cpu.encode(), length_prefixed(*devices), length_prefixed(*shared.values()))
        if len(record) > MAX_BUNDLE_BYTES:
            raise WireError(Reason.TOO_LARGE, f"evidence bundle: at most {MAX_BUNDLE_BYTES} bytes")
        return record

    @classmethod
    def decode(cls, record: bytes) -> EvidenceBundle:
        """The bundle in ``record``; its sender may be lying about everything inside.

        Raises:
            WireError: not such a record, not in its one spelling, or over a bound.
            AttestationError: EVIDENCE_FORMAT.
        """
        cpu, devices, shared = unpack(record, _LABEL, 3, max_bytes=MAX_BUNDLE_BYTES)
        contents = {sha256(item): item for item in split_items(shared, "evidence.shared", _MAX_SHARED)}
        slim = [Evidence.decode(item) for item in split_items(devices, "evidence.devices", MAX_DEVICES)]
        bundle = cls(Evidence.decode(cpu), tuple(_whole(device, contents) for device in slim))
        if bundle.encode() != record:
            raise WireError(Reason.NOT_CANONICAL, "evidence bundle: not in its one spelling")
        return bundle


def _whole(device: Evidence, contents: dict[bytes, bytes]) -> Evidence:
    """``device`` with the contents that its parts name by their digests."""
    if any(digest not in contents for _, digest in device.parts):
        raise WireError(Reason.MALFORMED, "evidence.devices: parts that are in the bundle expected")
    whole = replace(device, parts=tuple((name, contents[digest]) for name, digest in device.parts))
    if sum(len(content) for _, content in whole.parts) > MAX_EVIDENCE_BYTES:
        raise WireError(Reason.TOO_LARGE, f"evidence.devices: at most {MAX_EVIDENCE_BYTES} bytes each")
    return whole


@dataclass(frozen=True, slots=True)
class Bound:
    """What the evidence of a peer must be bound to: its transcript, and the configuration that it was launched with."""

    transcript: OpenTranscript
    host_data: bytes


def appraise_bundle(
    bundle: EvidenceBundle, policy: AppraisalPolicy, roots: Sequence[TrustRoot], *, bound: Bound, now: datetime
) -> AttestationResult:
    """The affirming result for a TEE and every device that it holds, cheapest check first.

    1. As many devices of each format as the policy asks for, and no others.
    2. The TEE's evidence, bound to the transcript with the devices' digests in it.
    3. Each device's evidence, bound to the challenge of that transcript.
    4. No device twice.

    Raises:
        AttestationError: DEVICE_COUNT, DEVICE_DUPLICATE, or why the evidence of one of them is refused.
    """
    _require_counts(bundle, policy.devices)
    platform_policy = policy.for_format(bundle.cpu.format)
    expected = Expected(report_data(bound.transcript.over(bundle.devices)), bound.host_data)
    result = appraise(verify(bundle.cpu, roots, now), platform_policy, expected, now)
    if not bundle.devices:
        return with_devices(result, ())
    challenged = Expected(bound.transcript.device_challenge, bound.host_data)
    devices = tuple(
        appraise(verify(device, roots, now), policy.devices[device.format].policy, challenged, now)
        for device in bundle.devices
    )
    if len({device.hardware_id for device in devices}) != len(devices):
        raise AttestationError(Reason.DEVICE_DUPLICATE, "evidence.devices: each device once expected")
    return with_devices(result, devices)


def _require_counts(bundle: EvidenceBundle, rules: DeviceRules) -> None:
    """The policy says how many of which; what it does not name must not come."""
    for format in DEVICE_FORMATS:
        count = sum(device.format is format for device in bundle.devices)
        rule = rules.get(format)
        low, high = (0, 0) if rule is None else (rule.minimum, rule.maximum)
        if not low <= count <= high:
            detail = f"evidence.devices: {low} to {high} of {format.value} expected"
            raise AttestationError(Reason.DEVICE_COUNT, detail)
