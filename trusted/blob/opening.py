"""Opening a blob piece by piece. Trust zone: every TEE, and a recipient's console; whoever stores it may lie."""

from __future__ import annotations

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from trusted import floe
from trusted.blob.header import (
    MAX_HEADER_BYTES,
    SIGNATURE_BYTES,
    BlobHeader,
    ContentKey,
    Piece,
    context_of,
    signed_bytes,
)
from trusted.encoding import Encoding, Vector
from trusted.errors import BlobError, Reason, WireError
from trusted.floe import Buffer, Floe


class BlobOpener:
    """Opens the pieces of one blob, in any order, from any thread."""

    def __init__(self, header: BlobHeader, opened: Floe) -> None:
        self.header = header
        self._floe = opened

    @classmethod
    def begin(cls, prefix: Buffer, *, expected: BlobHeader, key: ContentKey, verify_key: bytes) -> BlobOpener:
        """What opens a blob that is exactly ``expected``, signed by ``verify_key`` (Ed25519, 32 bytes).

        ``prefix`` holds at least the first ``expected.prefix_bytes`` of it.

        Raises:
            BlobError: another header, signer or key.
        """
        encoded, signature, rest = _split_prefix(bytes(prefix[: MAX_HEADER_BYTES + SIGNATURE_BYTES + 128]))
        _decoded(encoded).require_is(expected)
        try:
            Ed25519PublicKey.from_public_bytes(verify_key).verify(signature, signed_bytes(encoded))
        except (InvalidSignature, ValueError):
            raise BlobError(Reason.BLOB_SIGNATURE, "header: not signed by the announced sender") from None
        context = context_of(encoded, signature)
        try:
            begun = Floe.resume(key.secret, context, rest[: floe.HEADER_BYTES], segment_bytes=expected.segment_bytes)
        except InvalidTag:
            raise _altered() from None
        return cls(expected, begun)

    def open_into(self, piece: Piece, sealed: Buffer, out: Vector) -> None:
        """Open ``sealed`` as ``piece`` into ``out``, private float32[piece.elements], all of it finite if numeric.

        Raises:
            BlobError: not that piece, whole and unaltered; or not finite. ``out`` then holds nothing to be used.
        """
        self.open_unbounded_into(piece, sealed, out)
        if self.header.is_numeric and not np.isfinite(out).all():
            raise BlobError(Reason.NON_FINITE, "blob: NaN or infinity")

    def open_unbounded_into(self, piece: Piece, sealed: Buffer, out: Vector) -> None:
        """As :meth:`open_into`, for who looks for NaN and infinity in what becomes of it.

        Raises:
            BlobError: not that piece, whole and unaltered. ``out`` then holds nothing to be used.
        """
        if memoryview(sealed).nbytes != piece.sealed_bytes:
            raise BlobError(Reason.BLOB_TRUNCATED, "blob: a piece is not as long as its header says")
        direct = self.header.encoding is Encoding.FLOAT32
        data = out.view(np.uint8) if direct else np.empty(piece.plaintext_bytes, dtype=np.uint8)
        try:
            self._floe.open_into(piece.position, sealed, data.data, last=piece.last)
        except InvalidTag:
            raise _altered() from None
        if not direct:
            self.header.encoding.decode_into(data, out)

    def open_plaintext(self, piece: Piece, sealed: Buffer) -> bytes:
        """The encoded bytes of ``piece``, whatever numbers they spell, or :class:`BlobError`."""
        plain = memoryview(bytearray(piece.plaintext_bytes))
        try:
            self._floe.open_into(piece.position, sealed, plain, last=piece.last)
        except InvalidTag:
            raise _altered() from None
        return bytes(plain)

    def fault_of(self, piece: Piece, sealed: Buffer) -> BlobError:
        """Why ``sealed`` does not open as ``piece``: altered, or sealed longer or shorter than announced."""
        view = memoryview(sealed)
        for size, last in ((view.nbytes, True), (self._floe.segment_bytes, False)):
            try:
                self._floe.open_into(
                    piece.position, view[:size], memoryview(bytearray(self._floe.plaintext_bytes)), last=last
                )
            except InvalidTag:
                continue
            shorter = last and size < piece.sealed_bytes
            reason = Reason.BLOB_TRUNCATED if shorter else Reason.BLOB_TOO_LONG
            return BlobError(reason, "blob: not as long as its header says")
        return _altered()


def _decoded(encoded: bytes) -> BlobHeader:
    """The header, or a fault of this blob: whoever stores it can write anything here, and it must cost nobody else."""
    try:
        return BlobHeader.decode(encoded)
    except WireError:
        raise BlobError(Reason.BLOB_HEADER, "header: not a header of this protocol") from None


def _split_prefix(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, signature, and what follows them."""
    size = int.from_bytes(data[:4], "big")
    if len(data) >= 4 and not 0 < size <= MAX_HEADER_BYTES:
        raise BlobError(Reason.BLOB_HEADER, f"blob: a header of 1 to {MAX_HEADER_BYTES} bytes expected")
    end = 4 + size + 4 + SIGNATURE_BYTES
    if len(data) < max(end, 8):
        raise BlobError(Reason.BLOB_TRUNCATED, "blob: ends within its header")
    if int.from_bytes(data[4 + size : 8 + size], "big") != SIGNATURE_BYTES:
        raise BlobError(Reason.BLOB_HEADER, "blob: a signature of 64 bytes expected")
    return data[4 : 4 + size], data[8 + size : end], data[end:]


def _altered() -> BlobError:
    return BlobError(Reason.BLOB_OPEN, "blob: a piece is altered, missing or sealed under another key")
