"""Sealed blobs: one signed header, then authenticated pieces that cannot be cut, swapped or reordered (protocol.md §6).

Trust zone: every TEE, and a recipient's console. The store that holds a blob may alter, truncate or swap it; its sender
may have sealed anything. Nothing that this module gives out is unauthenticated, and a blob counts only when all of its
pieces have opened: the last one tells that nothing was cut.

Pieces are FLOE segments of about 1 MiB of plaintext. They may be sealed and opened in any order, by several threads.
"""

from trusted.blob.header import KEY_BYTES, PIECE_BYTES, BlobHeader, BlobKind, ContentKey, Piece
from trusted.blob.opening import BlobOpener
from trusted.blob.sealed_vector import SealedVector
from trusted.blob.sealing import BlobSealer, seal, seal_vector
from trusted.blob.streaming import open_blob, open_vector

__all__ = [
    "KEY_BYTES",
    "PIECE_BYTES",
    "BlobHeader",
    "BlobKind",
    "BlobOpener",
    "BlobSealer",
    "ContentKey",
    "Piece",
    "SealedVector",
    "open_blob",
    "open_vector",
    "seal",
    "seal_vector",
]
