"""Sealed updates in memory, as the aggregator reads them. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.enclave.fold import Contribution
from trusted.blob import BlobHeader, BlobKind, ContentKey, seal_vector
from trusted.encoding import Vector
from trusted.floe import Buffer


@dataclass(frozen=True, slots=True)
class Held:
    """A store that has everything in memory and gives it without a copy."""

    blobs: dict[bytes, memoryview] = field(default_factory=dict)

    def expect(self, blob: bytes, size_bytes: int) -> None:
        """Nothing is uploaded."""

    def read(self, blob: bytes, offset: int, size_bytes: int) -> memoryview:
        """Whatever is asked for."""
        return self.blobs[blob][offset : offset + size_bytes]

    def write(self, blob: bytes, size_bytes: int, pieces: Iterable[Buffer]) -> None:
        """In place of what had this name."""
        self.blobs[blob] = memoryview(b"".join(bytes(piece) for piece in pieces))

    def discard(self, blob: bytes) -> None:
        """It is gone."""
        del self.blobs[blob]

    def hold_update(self, member: str, update: Vector, signing_key: Ed25519PrivateKey, weight: int = 1) -> Contribution:
        """``update``, float32, sealed by ``member``."""
        header = BlobHeader(BlobKind.UPDATE, bytes(32), 0, member, bytes(32), len(update))
        key, blob = ContentKey.generate(), member.encode().ljust(16)
        self.write(blob, header.sealed_bytes, seal_vector(header, update, key=key, signing_key=signing_key))
        return Contribution(member, weight, blob, header, key, signing_key.public_key().public_bytes_raw())
