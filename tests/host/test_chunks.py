"""The hand-written codec of data messages beside protobuf: the same bytes, the same fields, the same refusals."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protos.chunks import decode_chunk, decode_put_chunk, encode_chunk, put_chunk_head
from protos.v1 import cloister_pb2

SIZES = [0, 1, 127, 128, 16_383, 16_384, (1 << 20) + 1]
NAME = st.builds(cloister_pb2.BlobName, plan=st.binary(max_size=40), blob=st.binary(max_size=20))
PUT = st.builds(
    cloister_pb2.PutChunk,
    name=st.none() | NAME,
    offset=st.integers(0, (1 << 64) - 1),
    data=st.binary(max_size=300),
)
# A length spelled in more bytes than it needs, and in more than any has; a second field; one cut short.
ODD_CHUNKS = [
    b"\x0a\x82\x80\x00hi",
    b"\x0a\x82" + b"\x80" * 8 + b"\x00hi",
    b"\x0a\x01a\x0a\x01b",
    b"\x0a\x05hi",
    b"\x0a",
]
OVER_64_BITS = b"\x82" + b"\x80" * 8 + b"\x7fhi"


def fields_of(message: cloister_pb2.PutChunk) -> tuple[bytes, bytes, int, bytes]:
    return message.name.plan, message.name.blob, message.offset, message.data


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_by_hand_is_what_protobuf_writes(size):
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    if data:  # protobuf leaves an empty field out
        assert encode_chunk(data) == cloister_pb2.Chunk(data=data).SerializeToString()
        assert put_chunk_head(size) + data == cloister_pb2.PutChunk(data=data).SerializeToString()
    assert cloister_pb2.Chunk.FromString(encode_chunk(data)).data == data
    assert cloister_pb2.PutChunk.FromString(put_chunk_head(size) + data).data == data
    assert bytes(decode_chunk(encode_chunk(data))) == data


@given(message=PUT)
def test_every_message_that_protobuf_writes_is_read_as_protobuf_reads_it(message):
    read = decode_put_chunk(message.SerializeToString())
    assert (read.plan, read.blob, read.offset, bytes(read.data)) == fields_of(message)


@settings(max_examples=500)
@given(encoded=st.binary(max_size=60) | st.binary(max_size=30).map(lambda data: b"\x0a" + data))
@example(encoded=b"")
@example(encoded=ODD_CHUNKS[0])
@example(encoded=ODD_CHUNKS[1])
@example(encoded=ODD_CHUNKS[2])
@example(encoded=ODD_CHUNKS[3])
@example(encoded=ODD_CHUNKS[4])
@example(encoded=b"\x0a" + OVER_64_BITS)
def test_any_bytes_are_the_chunk_that_protobuf_sees_or_the_same_refusal(encoded):
    try:
        expected = cloister_pb2.Chunk.FromString(encoded).data
    except DecodeError:
        with pytest.raises(DecodeError):
            decode_chunk(encoded)
        return
    assert bytes(decode_chunk(encoded)) == expected


@settings(max_examples=500)
@given(encoded=st.binary(max_size=60) | st.binary(max_size=30).map(lambda data: b"\x1a" + data))
@example(encoded=b"")
@example(encoded=b"\x1a\x82\x80\x00hi")
@example(encoded=b"\x1a\x01a\x1a\x01b")
@example(encoded=b"\x1a\x01a\x10\x05")
@example(encoded=b"\x1a\x05hi")
@example(encoded=b"\x1a" + OVER_64_BITS)
def test_any_bytes_are_the_upload_message_that_protobuf_sees_or_the_same_refusal(encoded):
    try:
        expected = fields_of(cloister_pb2.PutChunk.FromString(encoded))
    except DecodeError:
        with pytest.raises(DecodeError):
            decode_put_chunk(encoded)
        return
    read = decode_put_chunk(encoded)
    assert (read.plan, read.blob, read.offset, bytes(read.data)) == expected


def test_data_is_not_copied():
    message = put_chunk_head(5) + b"bytes"
    assert decode_put_chunk(message).data.obj is message
    message = encode_chunk(b"bytes")
    assert decode_chunk(message).obj is message
