"""What a request for a key is bound to (docs/protocol.md §15.2). Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass

from trusted.attestation.composite import OpenTranscript
from trusted.documents.grant import Holder
from trusted.release import Release
from trusted.wire import exactly, pack, sha256, unpack

NONCE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which key (the digest of what it seals, 32 bytes), as what, and for which charter and plan (digests)."""

    role: Holder
    charter: bytes
    plan: bytes
    key_id: bytes

    @property
    def fields(self) -> tuple[bytes, ...]:
        """The four, as they stand in a hello and in K."""
        return self.role.value.encode("ascii"), self.charter, self.plan, self.key_id


def transcript(wanted: Wanted, nonces: tuple[bytes, bytes], kem: bytes, frames: bytes) -> OpenTranscript:
    """K: whoever proved itself asked for this key, in this exchange, to be sealed to ``kem`` (1216 bytes).

    ``nonces`` are the asker's and the broker's, 32 bytes each; ``frames`` is H(hello) ‖ H(challenge).
    """
    return OpenTranscript((b"key-release", *wanted.fields, *nonces, kem), (frames,))


def possession(over: bytes) -> bytes:
    """What the credential's key signs: K with the digests of the devices."""
    return pack("cloister/key-possession/v1", over)


def purpose(frames: tuple[bytes, ...], grant: bytes) -> tuple[bytes, ...]:
    """What a key is sealed for: the three frames before the answer, and the grant's envelope."""
    return (b"key-release", *(sha256(frame) for frame in frames), sha256(grant))


def model_key_id(release: Release) -> bytes:
    """The id of the content key of a released model: of this plan, this model, in this sealed blob."""
    fields = exactly(release.plan, 32, "plan"), exactly(release.model_sha256, 32, "model"), release.blob
    return sha256(pack("cloister/model-key-id/v1", *fields))


def read_nonce(frame: bytes, label: str) -> bytes:
    """The nonce of a challenge, its only field."""
    (nonce,) = unpack(frame, label, 1)
    return exactly(nonce, NONCE_BYTES, "challenge.nonce_b")
