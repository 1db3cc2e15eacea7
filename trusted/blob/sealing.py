"""Sealing a blob: the sender's half. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.blob.header import BlobHeader, ContentKey, Piece, context_of, signed_bytes
from trusted.encoding import Encoding, Vector
from trusted.floe import Floe
from trusted.wire import length_prefixed

_PIECES_A_PART = 3  # within the 4 MiB that the door takes at once


class BlobSealer:
    """Seals one blob. ``prefix`` comes first in it, then the pieces of its header, from any thread."""

    def __init__(self, header: BlobHeader, key: ContentKey, signing_key: Ed25519PrivateKey) -> None:
        encoded = header.encode()
        signature = signing_key.sign(signed_bytes(encoded))
        self.header = header
        self._floe, begin = Floe.start(key.secret, context_of(encoded, signature), segment_bytes=header.segment_bytes)
        self.prefix = length_prefixed(encoded, signature) + begin

    def seal_into(self, piece: Piece, vector: Vector, out: memoryview, *, iv: bytes | None = None) -> memoryview:
        """``piece`` of ``vector``, float32[header.elements], sealed at the start of ``out``: that part of it.

        ``iv`` as :meth:`trusted.floe.Floe.seal_into` takes it.
        """
        part = vector[piece.start : piece.start + piece.elements]
        if self.header.encoding is Encoding.FLOAT32:
            plaintext = np.ascontiguousarray(part, dtype="<f4").data.cast("B")
        else:
            encoded = np.empty(piece.plaintext_bytes, dtype=np.uint8)
            self.header.encoding.encode_into(part, encoded)
            plaintext = encoded.data
        return out[: self._floe.seal_into(piece.position, plaintext, out, last=piece.last, iv=iv)]


def seal_vector(
    header: BlobHeader, vector: Vector, *, key: ContentKey, signing_key: Ed25519PrivateKey
) -> Iterator[memoryview]:
    """The sealed blob of ``vector``, float32[header.elements], about 3 MiB at a time; each is good until the next."""
    sealer, pieces = BlobSealer(header, key, signing_key), header.pieces()
    end = len(sealer.prefix)
    room = memoryview(bytearray(min(header.sealed_bytes, end + _PIECES_A_PART * header.segment_bytes)))
    room[:end] = sealer.prefix
    while taken := tuple(islice(pieces, _PIECES_A_PART)):
        for piece in taken:
            end += len(sealer.seal_into(piece, vector, room[end:]))
        yield room[:end]
        end = 0


def seal(
    header: BlobHeader, plaintext: Iterable[bytes | memoryview], *, key: ContentKey, signing_key: Ed25519PrivateKey
) -> Iterator[bytes]:
    """The parts of the sealed blob whose plaintext is float32 little-endian, given in any pieces.

    Raises:
        ValueError: the plaintext has another size than its header announces (a bug of the caller).
    """
    data = b"".join(plaintext)
    if len(data) != 4 * header.elements:
        raise ValueError("the plaintext does not have the size that its header announces")
    for part in seal_vector(header, np.frombuffer(data, dtype="<f4"), key=key, signing_key=signing_key):
        yield bytes(part)
