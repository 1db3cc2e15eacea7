"""What evidence is bound to: the transcripts T1, T2, T3 of docs/protocol.md §4. Trust zone: every TEE.

Everything that must not be swapped, relayed or replayed stands in one of these, and its hash in the report data.
Each is open for the digests of the devices' evidence, which answers a challenge made of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from trusted.attestation.composite import OpenTranscript

AGGREGATOR = "aggregator"
WORKER = "worker"
RECIPIENT = "recipient"


@dataclass(frozen=True, slots=True)
class Prover:
    """The keys of whoever gives evidence: HPKE key (1216 bytes), Ed25519 key (32), boot id (16 random bytes)."""

    role: str
    kem: bytes
    verify: bytes
    boot: bytes


@dataclass(frozen=True, slots=True)
class Challenge:
    """The nonces of both verifiers, 32 random bytes each, drawn for one handshake."""

    nonce_w: bytes
    nonce_a: bytes


def admission(prover: Prover, challenge: Challenge, charter: bytes, plan: bytes, context: bytes) -> OpenTranscript:
    """T1 or T2. ``context`` is H(hello) for the aggregator; H(hello) ‖ H(offer) ‖ commitment for a worker."""
    before = (
        prover.role.encode("ascii"),
        challenge.nonce_w,
        challenge.nonce_a,
        prover.kem,
        prover.verify,
        prover.boot,
        charter,
        plan,
    )
    return OpenTranscript(before, (context,))


@dataclass(frozen=True, slots=True)
class SessionBinding:
    """What an open session is: its id (16), its documents (32 each) and the hash of its four handshake frames (32)."""

    session_id: bytes
    charter: bytes
    plan: bytes
    handshake: bytes


def reattestation(role: str, verify: bytes, nonce: bytes, binding: SessionBinding) -> OpenTranscript:
    """T3: the prover with key ``verify`` still runs what it ran, now, in this very session."""
    before = (role.encode("ascii"), binding.session_id, nonce, verify, binding.charter, binding.plan)
    return OpenTranscript(before, (binding.handshake,))


def release(document_sha256: bytes) -> OpenTranscript:
    """R: the aggregator released exactly this document (docs/protocol.md §6.3)."""
    return OpenTranscript((b"release", document_sha256))
