"""A blob that is sealed while it is sent, and again, to the same bytes, when it is sent again. Trust zone: every TEE.

A sender that keeps its vector need not keep the sealed blob, nor write and read it as a whole.

Rules:
 1. The IV of a piece is drawn once, for this blob's key alone.
 2. A piece that is sealed again gives the tag that it gave at first, or is not given out: were the vector changed
    meanwhile, two plaintexts under one key and IV would open each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from secrets import token_bytes

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.blob.header import BlobHeader, ContentKey, Piece
from trusted.blob.sealing import BlobSealer
from trusted.encoding import Vector
from trusted.errors import BlobError, Reason
from trusted.floe import SEGMENT_IV_BYTES, TAG_BYTES

_PIECES_A_STRETCH = 4


class SealedVector:
    """The blob of ``vector``, float32[header.elements], which stays as it is for as long as this is used.

    Any number of threads may read it at a time.
    """

    def __init__(self, header: BlobHeader, vector: Vector, *, key: ContentKey, signing_key: Ed25519PrivateKey) -> None:
        if vector.shape != (header.elements,):
            raise BlobError(Reason.BLOB_LAYOUT, "blob: another size than announced")
        self.header = header
        self._vector = vector
        self._sealer = BlobSealer(header, key, signing_key)
        self._ivs = token_bytes(SEGMENT_IV_BYTES * sum(1 for _ in header.pieces()))
        self._tags: dict[int, bytes] = {}

    @property
    def prefix(self) -> bytes:
        """What stands before the first piece."""
        return self._sealer.prefix

    def __len__(self) -> int:
        return self.header.sealed_bytes

    def __bytes__(self) -> bytes:
        return b"".join(bytes(stretch) for stretch in self.stretches())

    def stretches(self, offset: int = 0) -> Iterator[memoryview]:
        """The bytes from ``offset`` to the end, about 4 MiB at a time; what is given is good until the next.

        Raises:
            BlobError: NON_FINITE: a piece holds NaN or infinity; nothing of it is given.
            RuntimeError: the vector was changed since it was first read (a bug of its owner).
        """
        prefix, step = self._sealer.prefix, self.header.segment_bytes
        room = memoryview(bytearray(min(len(self), len(prefix) + _PIECES_A_STRETCH * step)))
        behind = offset - len(prefix)  # counted from the first piece
        pieces = islice(self.header.pieces(), max(0, behind) // step, None)
        skipped, end = (offset, len(prefix)) if behind < 0 else (behind % step, 0)
        room[:end] = prefix[:end]
        while taken := tuple(islice(pieces, _PIECES_A_STRETCH)):
            for piece in taken:
                end += len(self._seal(piece, room[end:]))
            yield room[skipped:end]
            skipped = end = 0

    def _seal(self, piece: Piece, out: memoryview) -> memoryview:
        part = self._vector[piece.start : piece.start + piece.elements]
        if self.header.is_numeric and not np.isfinite(part).all():  # while it is in the cache
            raise BlobError(Reason.NON_FINITE, "blob: NaN or infinity")
        begin = SEGMENT_IV_BYTES * piece.position
        sealed = self._sealer.seal_into(piece, self._vector, out, iv=self._ivs[begin : begin + SEGMENT_IV_BYTES])
        tag = bytes(sealed[-TAG_BYTES:])
        if self._tags.setdefault(piece.position, tag) != tag:
            raise RuntimeError("a vector was changed while its blob is being sent")
        return sealed
