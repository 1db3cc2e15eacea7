"""What a blob is for, and where its pieces stand: all of it known before a byte is sent. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from secrets import token_bytes

from trusted import floe
from trusted.encoding import Encoding
from trusted.errors import BlobError, Reason
from trusted.wire import Fields, decode_json, encode_json, pack, sha256

KEY_BYTES = floe.KEY_BYTES
PIECE_BYTES = 1 << 20  # what a reader may ask for at a time; a sealed piece is at most this and 32 bytes
MAX_HEADER_BYTES = 1024
SIGNATURE_BYTES = 64
_HEADERS_KEPT = 1024  # every size and place in a blob is asked of its header, many times a round


class BlobKind(Enum):
    """What a blob carries."""

    INITIAL = "initial"
    MODEL = "model"
    UPDATE = "update"
    RELEASE = "release"
    BASE = "base"
    STATE = "state"
    FINAL = "final"
    MESSAGE = "message"
    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class Piece:
    """Where one sealed piece stands in its blob, and which elements it holds.

    ``offset`` counts from behind the blob's prefix, whose length depends on the sender's name; ``sealed_bytes`` are of
    the blob, ``start`` and ``elements`` of the vector.
    """

    position: int
    offset: int
    sealed_bytes: int
    start: int
    elements: int
    last: bool

    @property
    def plaintext_bytes(self) -> int:
        """Of the encoded elements."""
        return self.sealed_bytes - floe.OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class BlobHeader:
    """What a blob is for. It is the context of every piece, so a blob opens for nothing else."""

    kind: BlobKind
    plan: bytes
    round: int
    sender: str
    layout: bytes
    elements: int
    encoding: Encoding = Encoding.FLOAT32

    @property
    def is_numeric(self) -> bool:
        """Whether an element is a number. One of a message is four bytes of anything, in a float32's place."""
        return self.kind not in (BlobKind.MESSAGE, BlobKind.REPLY)

    def encode(self) -> bytes:
        """Canonical bytes."""
        return _encoded(self)

    @classmethod
    def decode(cls, data: bytes) -> BlobHeader:
        """The header that ``data`` spells. Anybody may have written it."""
        with Fields(decode_json(data, max_bytes=MAX_HEADER_BYTES), "header") as fields:
            return cls(
                kind=BlobKind(fields.choice("kind", [kind.value for kind in BlobKind])),
                plan=fields.octets("plan", 32),
                round=fields.integer("round", low=0, high=1 << 31),
                sender=fields.text("sender", max_length=64),
                layout=fields.octets("layout", 32),
                elements=fields.integer("elements", low=1, high=1 << 31),
                encoding=Encoding(fields.choice("encoding", [encoding.value for encoding in Encoding])),
            )

    @property
    def plaintext_bytes(self) -> int:
        """What the encoding makes of the elements."""
        return self.encoding.size_bytes(self.elements)

    @property
    def prefix_bytes(self) -> int:
        """What stands before the first piece: header, signature and FLOE's own header."""
        return 8 + len(self.encode()) + SIGNATURE_BYTES + floe.HEADER_BYTES

    @property
    def sealed_bytes(self) -> int:
        """The exact size of the blob: known to both sides before a byte of it is sent."""
        pieces = -(-self.elements // self.encoding.piece_elements)
        return self.prefix_bytes + self.plaintext_bytes + pieces * floe.OVERHEAD_BYTES

    @property
    def segment_bytes(self) -> int:
        """Of every sealed piece but the last."""
        return self.encoding.size_bytes(self.encoding.piece_elements) + floe.OVERHEAD_BYTES

    def pieces(self) -> Iterator[Piece]:
        """Every piece, in order."""
        offset, step = 0, self.encoding.piece_elements
        for start in range(0, self.elements, step):
            count = min(step, self.elements - start)
            size = self.encoding.size_bytes(count) + floe.OVERHEAD_BYTES
            yield Piece(start // step, offset, size, start, count, start + count == self.elements)
            offset += size

    def require_is(self, expected: BlobHeader) -> None:
        """Refuse a header that is not the expected one, by the first field that differs."""
        for name, reason in _HEADER_REASONS.items():
            if getattr(self, name) != getattr(expected, name):
                raise BlobError(reason, f"header.{name}: not the one that was announced")


@lru_cache(maxsize=_HEADERS_KEPT)
def _encoded(header: BlobHeader) -> bytes:
    return encode_json(
        {
            "kind": header.kind.value,
            "plan": header.plan.hex(),
            "round": header.round,
            "sender": header.sender,
            "layout": header.layout.hex(),
            "encoding": header.encoding.value,
            "elements": header.elements,
        }
    )


_HEADER_REASONS = {
    "plan": Reason.BLOB_PLAN,
    "kind": Reason.BLOB_KIND,
    "round": Reason.BLOB_ROUND,
    "sender": Reason.BLOB_SENDER,
    "layout": Reason.BLOB_LAYOUT,
    "elements": Reason.BLOB_LAYOUT,
    "encoding": Reason.BLOB_LAYOUT,
}


@dataclass(frozen=True, slots=True)
class ContentKey:
    """The fresh key of one blob, 32 bytes. Whoever has it can open the blob."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> ContentKey:
        """A key that seals one blob, once."""
        return cls(token_bytes(KEY_BYTES))


def signed_bytes(header: bytes) -> bytes:
    """What the sender signs of an encoded header."""
    return pack("cloister/blob/v1", header)


def context_of(header: bytes, signature: bytes) -> bytes:
    """What every piece is bound to."""
    return sha256(pack("cloister/blob-context/v1", header, signature))
