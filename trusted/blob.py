"""Sealed blobs: one signed header, then authenticated chunks that cannot be cut, swapped or reordered (protocol.md §6).

Trust zone: every TEE, and a recipient's console. The store that holds a blob may alter, truncate or swap it; its sender
may have sealed anything. Nothing that this module yields is unauthenticated, and a blob counts only when its iterator
ended without an error: a cut at the end shows only there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from trusted.errors import BlobError, Reason, WireError
from trusted.wire import Fields, decode_json, encode_json, length_prefixed, pack, sha256

ENCODING = "f32le"
KEY_BYTES = 32
PIECE_BYTES = 1 << 20  # plaintext that is read, opened and folded at a time
MAX_HEADER_BYTES = 1024
_SIGNATURE_BYTES = 64
_CHUNK_BYTES = 16384  # Cobblestone-256: a 16-byte tag for each such chunk …
_TAG_BYTES = 16
_FIXED_BYTES = 72  # … and a 56-byte preamble and a last tag, even for nothing


class BlobKind(Enum):
    """What a blob carries."""

    INITIAL = "initial"
    MODEL = "model"
    UPDATE = "update"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class BlobHeader:
    """What a blob is for. It is the context of every chunk, so a blob opens for nothing else."""

    kind: BlobKind
    plan: bytes
    round: int
    sender: str
    layout: bytes
    elements: int

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_json(
            {
                "kind": self.kind.value,
                "plan": self.plan.hex(),
                "round": self.round,
                "sender": self.sender,
                "layout": self.layout.hex(),
                "encoding": ENCODING,
                "elements": self.elements,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> BlobHeader:
        """The header that ``data`` spells. Anybody may have written it."""
        with Fields(decode_json(data, max_bytes=MAX_HEADER_BYTES), "header") as fields:
            fields.choice("encoding", (ENCODING,))
            return cls(
                kind=BlobKind(fields.choice("kind", [kind.value for kind in BlobKind])),
                plan=fields.octets("plan", 32),
                round=fields.integer("round", low=0, high=1 << 31),
                sender=fields.text("sender", max_length=64),
                layout=fields.octets("layout", 32),
                elements=fields.integer("elements", low=1, high=1 << 31),
            )

    @property
    def plaintext_bytes(self) -> int:
        """Four bytes for each element."""
        return 4 * self.elements

    @property
    def sealed_bytes(self) -> int:
        """The exact size of the blob: known to both sides before a byte of it is sent."""
        chunks = self.plaintext_bytes // _CHUNK_BYTES
        prefix = 8 + len(self.encode()) + _SIGNATURE_BYTES
        return prefix + self.plaintext_bytes + chunks * _TAG_BYTES + _FIXED_BYTES

    def require_is(self, expected: BlobHeader) -> None:
        """Refuse a header that is not the expected one, by the first field that differs."""
        for name, reason in _HEADER_REASONS.items():
            if getattr(self, name) != getattr(expected, name):
                raise BlobError(reason, f"header.{name}: not the one that was announced")


_HEADER_REASONS = {
    "plan": Reason.BLOB_PLAN,
    "kind": Reason.BLOB_KIND,
    "round": Reason.BLOB_ROUND,
    "sender": Reason.BLOB_SENDER,
    "layout": Reason.BLOB_LAYOUT,
    "elements": Reason.BLOB_LAYOUT,
}


@dataclass(frozen=True, slots=True)
class ContentKey:
    """The fresh key of one blob, 32 bytes. Whoever has it can open the blob."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> ContentKey:
        """A key that seals one blob, once."""
        return cls(Cobblestone256Encryptor.generate_key())


def seal(
    header: BlobHeader, plaintext: Iterable[bytes | memoryview], *, key: ContentKey, signing_key: Ed25519PrivateKey
) -> Iterator[bytes]:
    """The pieces of the sealed blob, in order; together ``header.sealed_bytes``.

    Args:
        header: what the blob is for.
        plaintext: pieces of float32 little-endian, together ``header.plaintext_bytes``.
        key: used for this blob alone.
        signing_key: the key that the sender's evidence binds.

    Raises:
        ValueError: the plaintext has another size (a bug of the caller).
    """
    encoded = header.encode()
    signature = signing_key.sign(_signed(encoded))
    yield length_prefixed(encoded, signature)
    sealer = Cobblestone256Encryptor(key.secret, _context(encoded, signature))
    remaining = header.plaintext_bytes
    for piece in plaintext:
        remaining -= memoryview(piece).nbytes
        yield sealer.update(piece)
    if remaining:
        raise ValueError("the plaintext does not have the size that its header announces")
    yield sealer.finalize()


def open_blob(
    sealed: Iterable[bytes | memoryview], *, expected: BlobHeader, key: ContentKey, verify_key: bytes
) -> Iterator[bytes]:
    """The plaintext pieces of a blob that is exactly ``expected``, signed by ``verify_key`` (Ed25519, 32 bytes).

    Raises:
        BlobError: anything else. What was yielded before is authentic but incomplete, and must not count.
    """
    pieces = iter(sealed)
    encoded, signature, rest = _read_prefix(pieces)
    _decoded(encoded).require_is(expected)
    try:
        Ed25519PublicKey.from_public_bytes(verify_key).verify(signature, _signed(encoded))
    except (InvalidSignature, ValueError):
        raise BlobError(Reason.BLOB_SIGNATURE, "header: not signed by the announced sender") from None
    yield from _opened(rest, pieces, expected, Cobblestone256Decryptor(key.secret, _context(encoded, signature)))


def _decoded(encoded: bytes) -> BlobHeader:
    """The header, or a fault of this blob: whoever stores it can write anything here, and it must cost nobody else."""
    try:
        return BlobHeader.decode(encoded)
    except WireError:
        raise BlobError(Reason.BLOB_HEADER, "header: not a header of this protocol") from None


def _opened(
    rest: bytes, pieces: Iterator[bytes | memoryview], expected: BlobHeader, opener: Cobblestone256Decryptor
) -> Iterator[bytes]:
    remaining = expected.plaintext_bytes
    try:
        for piece in _chain(rest, pieces):
            plain = opener.update(piece)
            remaining -= len(plain)
            if remaining < 0:
                raise BlobError(Reason.BLOB_TOO_LONG, "blob: longer than its header says")
            if plain:
                yield plain
        last = opener.finalize()
    except InvalidTag:
        raise BlobError(Reason.BLOB_OPEN, "blob: a chunk is altered, missing or sealed under another key") from None
    if len(last) != remaining:
        raise BlobError(Reason.BLOB_TRUNCATED, "blob: not as long as its header says")
    if last:
        yield last


def _chain(first: bytes, others: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    if first:
        yield first
    yield from others


def _read_prefix(pieces: Iterator[bytes | memoryview]) -> tuple[bytes, bytes, bytes]:
    """Header, signature, and what follows them in the piece where they end."""
    buffer = b""
    for piece in pieces:
        buffer += bytes(piece)
        size = int.from_bytes(buffer[:4], "big")
        if len(buffer) >= 4 and not 0 < size <= MAX_HEADER_BYTES:
            raise BlobError(Reason.BLOB_HEADER, f"blob: a header of 1 to {MAX_HEADER_BYTES} bytes expected")
        end = 4 + size + 4 + _SIGNATURE_BYTES
        if len(buffer) >= max(end, 8):
            if int.from_bytes(buffer[4 + size : 8 + size], "big") != _SIGNATURE_BYTES:
                raise BlobError(Reason.BLOB_HEADER, "blob: a signature of 64 bytes expected")
            return buffer[4 : 4 + size], buffer[8 + size : end], buffer[end:]
    raise BlobError(Reason.BLOB_TRUNCATED, "blob: ends within its header")


def _signed(header: bytes) -> bytes:
    return pack("cloister/blob/v1", header)


def _context(header: bytes, signature: bytes) -> bytes:
    return sha256(pack("cloister/blob-context/v1", header, signature))
