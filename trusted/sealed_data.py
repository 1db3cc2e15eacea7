"""A site's data set at rest, sealed for its own workers (docs/protocol.md §5.2). Zone: worker TEE, the console.

Whoever stores the file may alter, cut, prolong or swap it. It is one CSV table in FLOE segments of 1 MiB under a key of
its own, which a key broker gives to attested workers; the public header names member, key and time, and nothing of
what the table holds. What is yielded while a file is opened is authentic but incomplete: it counts only once the last
segment has opened and nothing follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cryptography.exceptions import InvalidTag

from trusted import floe
from trusted.documents.schema import read_member, read_time, write_time
from trusted.errors import BlobError, Reason
from trusted.floe import Floe
from trusted.wire import Fields, decode_json, encode_json, length_prefixed, pack, sha256

KEY_BYTES = floe.KEY_BYTES
KEY_ID_BYTES = 32
MAGIC = b"cloister-sealed-data\n"
SEGMENT_BYTES = (1 << 20) + floe.OVERHEAD_BYTES
MAX_HEADER_BYTES = 1024
_FORMAT = "cloister/sealed-data/v1"
_CONTEXT_LABEL = "cloister/sealed-data-context/v1"


class Readable(Protocol):
    """A file that is read from its beginning."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class DataHeader:
    """What everybody may read of a sealed file, and what each of its segments is bound to.

    Attributes:
        member: whose data it is; no other member's worker takes it.
        key_id: under which name the member's key broker has the key, 32 bytes.
        sealed: when, by the steward's clock.
    """

    member: str
    key_id: bytes
    sealed: datetime

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_json(
            {
                "format": _FORMAT,
                "member": self.member,
                "key_id": self.key_id.hex(),
                "sealed": write_time(self.sealed),
            }
        )

    @classmethod
    def read(cls, file: Readable) -> DataHeader:
        """The header at the beginning of ``file``, which is then read up to its end. Anybody may have written it.

        Raises:
            BlobError: DATA_FILE: no sealed data set, or of a later format. WireError: a header of another form.
        """
        if _read(file, len(MAGIC)) != MAGIC:
            raise BlobError(Reason.DATA_FILE, "sealed data: not a file that `cloister data seal` made")
        size = int.from_bytes(_read(file, 4), "big")
        if not 0 < size <= MAX_HEADER_BYTES:
            raise BlobError(Reason.DATA_FILE, f"sealed data: a header of 1 to {MAX_HEADER_BYTES} bytes expected")
        with Fields(decode_json(_read(file, size), max_bytes=MAX_HEADER_BYTES), "sealed data") as fields:
            if fields.text("format") != _FORMAT:
                raise BlobError(Reason.DATA_FILE, "sealed data: of a format that this version does not know")
            return cls(
                read_member(fields, "member"), fields.octets("key_id", KEY_ID_BYTES), read_time(fields, "sealed")
            )

    @property
    def context(self) -> bytes:
        """What every segment is bound to."""
        return sha256(pack(_CONTEXT_LABEL, self.encode()))

    def require_member(self, member: str) -> None:
        """Refuse a file of another member.

        Raises:
            BlobError: DATA_FILE.
        """
        if self.member != member:
            raise BlobError(Reason.DATA_FILE, "sealed data.member: another member than this worker's")


def is_sealed(beginning: bytes) -> bool:
    """Whether a file that begins so says of itself that it is a sealed data set."""
    return beginning.startswith(MAGIC)


def seal_data(header: DataHeader, key: bytes, plaintext: Iterable[bytes]) -> Iterator[bytes]:
    """The sealed file of ``plaintext``, which may come in any pieces; ``key`` (32 bytes) seals one file, once."""
    message, begin = Floe.start(key, header.context, segment_bytes=SEGMENT_BYTES)
    yield MAGIC + length_prefixed(header.encode()) + begin
    room, pending, position = memoryview(bytearray(SEGMENT_BYTES)), bytearray(), 0
    for piece in plaintext:
        pending += piece
        while len(pending) > message.plaintext_bytes:  # never the last one: that is only known at the end
            full = bytes(pending[: message.plaintext_bytes])
            yield bytes(room[: message.seal_into(position, full, room, last=False)])
            del pending[: message.plaintext_bytes]
            position += 1
    yield bytes(room[: message.seal_into(position, bytes(pending), room, last=True)])


def open_data(header: DataHeader, key: bytes, file: Readable) -> Iterator[bytes]:
    """The plaintext of ``file``, which stands behind its ``header``, piece by piece.

    Raises:
        BlobError: DATA_SEALED: another key, or not the file that was sealed. What was yielded before must not count.
    """
    begin = file.read(floe.HEADER_BYTES)
    try:
        message = Floe.resume(key, header.context, begin, segment_bytes=SEGMENT_BYTES)
    except InvalidTag:
        raise _not_it("its header does not belong to this key") from None
    room, position, last = memoryview(bytearray(SEGMENT_BYTES)), 0, False
    segment = _up_to(file, SEGMENT_BYTES)
    while not last:
        following = _up_to(file, SEGMENT_BYTES)
        last = not following
        try:
            size = message.open_into(position, segment, room, last=last)
        except InvalidTag:
            raise _not_it("a part was altered, cut off, moved or added") from None
        yield bytes(room[:size])
        segment, position = following, position + 1


def _up_to(file: Readable, size: int) -> bytes:
    """``size`` bytes, or what there is before the end, however short the file's reads are."""
    data = file.read(size)
    while data and len(data) < size:
        more = file.read(size - len(data))
        if not more:
            break
        data += more
    return data


def _read(file: Readable, size: int) -> bytes:
    data = _up_to(file, size)
    if len(data) != size:
        raise BlobError(Reason.DATA_FILE, "sealed data: ends within its header")
    return data


def _not_it(why: str) -> BlobError:
    return BlobError(Reason.DATA_SEALED, f"sealed data: {why}")
