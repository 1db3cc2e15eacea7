"""A host's store in memory. Trust zone: the developer's machine; whoever holds it may make it lie."""

from __future__ import annotations

from collections.abc import Iterable

from trusted.floe import Buffer


class MemoryStore:
    """Honest by itself; a lying host changes ``blobs``."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}
        self.expected: dict[bytes, int] = {}

    def expect(self, blob: bytes, size_bytes: int) -> None:
        """An upload of this size may come."""
        self.expected[blob] = size_bytes

    def read(self, blob: bytes, offset: int, size_bytes: int) -> bytes:
        """What lies there, or as much of it as there is."""
        return self.blobs.get(blob, b"")[offset : offset + size_bytes]

    def write(self, blob: bytes, size_bytes: int, pieces: Iterable[Buffer]) -> None:
        """Keep the pieces.

        Raises:
            ValueError: together they are not ``size_bytes``.
        """
        self.blobs[blob] = b"".join(bytes(piece) for piece in pieces)
        if len(self.blobs[blob]) != size_bytes:
            raise ValueError("not the announced size")

    def discard(self, blob: bytes) -> None:
        """It is of no more use."""
        self.blobs.pop(blob, None)
