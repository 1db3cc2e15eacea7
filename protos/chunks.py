"""``PutChunk`` and ``Chunk`` without protobuf's copies: the same bytes on the wire, written and read by hand.

Measured: a quarter of the time that a transfer takes. Whoever speaks plain protobuf on the other side notices nothing.
Trust zone: shells on both sides; what does not look as it should is left to protobuf, which refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass

from protos.v1 import cloister_pb2

_CHUNK_DATA = b"\x0a"  # field 1, length-delimited
_PUT_DATA = b"\x1a"  # field 3, length-delimited
_LONGEST_VARINT = 10


@dataclass(frozen=True, slots=True)
class PutChunk:
    """One message of an upload; ``plan`` and ``blob`` are empty in all but the first."""

    plan: bytes
    blob: bytes
    offset: int
    data: memoryview


def put_chunk_head(size_bytes: int) -> bytes:
    """What stands before ``size_bytes`` of data in a ``PutChunk`` that says nothing else."""
    return _PUT_DATA + _varint(size_bytes)


def encode_chunk(data: bytes) -> bytes:
    """A ``Chunk``."""
    return b"".join((_CHUNK_DATA, _varint(len(data)), data))


def decode_chunk(message: bytes) -> memoryview:
    """The data of a ``Chunk``, not copied."""
    found = _only_field(message, _CHUNK_DATA)
    return memoryview(cloister_pb2.Chunk.FromString(message).data) if found is None else found


def decode_put_chunk(message: bytes) -> PutChunk:
    """A ``PutChunk``, its data not copied unless it is the first."""
    found = _only_field(message, _PUT_DATA)
    if found is not None:
        return PutChunk(b"", b"", 0, found)
    parsed = cloister_pb2.PutChunk.FromString(message)
    return PutChunk(parsed.name.plan, parsed.name.blob, parsed.offset, memoryview(parsed.data))


def as_bytes(message: bytes) -> bytes:
    """What is written already is not written again: the serializer of streams whose messages are bytes."""
    return message


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _only_field(message: bytes, tag: bytes) -> memoryview | None:
    """The content of a message that is one field and nothing else, or None."""
    if message[:1] != tag:
        return None
    size = shift = 0
    for place in range(1, min(len(message), 1 + _LONGEST_VARINT)):
        size |= (message[place] & 0x7F) << shift
        shift += 7
        if message[place] < 0x80:
            return memoryview(message)[place + 1 :] if len(message) - place - 1 == size else None
    return None
