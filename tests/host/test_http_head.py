"""Heads of the blob port: read alike however they arrive, and refused by number whatever they hold."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from secrets import token_bytes

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.host.http_head import MAX_HEAD_BYTES, PATH, HeadReader, Request, encode_head
from tests.host.conftest import PLAN
from trusted.errors import ProtocolError, Reason

BLOB = b"b" * 16
TARGET = PATH.decode()
NAMES = {"host": "h", "cloister-plan": PLAN.hex(), "cloister-blob": BLOB.hex()}
GET = NAMES | {"range": "bytes=5-104"}
PUT = NAMES | {"content-range": "bytes 5-104/*", "content-length": "100"}


def head(method: str, fields: dict[str, str], *, target: str = TARGET, version: str = "1.1") -> bytes:
    lines = (f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in fields.items()), "", "")
    return "\r\n".join(lines).encode()


def read(*pieces: bytes) -> Request:
    """The request that ``pieces`` make, of which the last completes it."""
    reader = HeadReader()
    for piece in pieces[:-1]:
        assert reader.feed(piece) is None
    request = reader.feed(pieces[-1])
    assert request is not None
    return request


def fault_of(*pieces: bytes) -> Reason:
    request = read(*pieces)
    assert request.fault is not None
    return request.fault.reason


def test_a_get_and_a_put_are_read() -> None:
    assert read(head("GET", GET)) == Request("GET", PLAN, BLOB, 5, 100, goes_on=True)
    assert read(head("PUT", PUT)) == Request("PUT", PLAN, BLOB, 5, 100, goes_on=True)
    assert (read(head("PUT", PUT)).name.plan, read(head("PUT", PUT)).name.blob) == (PLAN, BLOB)


@pytest.mark.parametrize(
    ("first", "last", "total"), [(0, 0, "1"), (0, 0, "*"), (10**15 - 1, 10**15 - 1, "*"), (7, 9, "999")]
)
def test_ranges_from_one_byte_to_the_largest_are_read(first: int, last: int, total: str) -> None:
    size = last - first + 1
    get = read(head("GET", GET | {"range": f"bytes={first}-{last}"}))
    put = PUT | {"content-range": f"bytes {first}-{last}/{total}", "content-length": str(size)}
    assert (get.offset, get.size_bytes) == (first, size)
    assert (read(head("PUT", put)).offset, read(head("PUT", put)).size_bytes) == (first, size)


def test_who_wants_to_be_told_to_go_on_waits_and_who_closes_does_not_go_on() -> None:
    assert read(head("PUT", PUT | {"expect": "100-continue"})).waits
    assert not read(head("PUT", PUT)).waits
    assert not read(head("GET", GET | {"connection": "close"})).goes_on
    assert not read(head("GET", GET | {"connection": "Close"})).goes_on


def test_a_peer_that_speaks_http_1_0_is_not_kept() -> None:
    """It waits for the end of the line, which is how that version ends an answer."""
    assert not read(head("GET", GET, version="1.0")).goes_on


MALFORMED = {
    "no-range": ("GET", NAMES),
    "a-range-of-a-put": ("GET", NAMES | {"content-range": "bytes 5-104/*"}),
    "no-content-range": ("PUT", NAMES | {"range": "bytes=5-104", "content-length": "100"}),
    "open-range": ("GET", GET | {"range": "bytes=5-"}),
    "suffix-range": ("GET", GET | {"range": "bytes=-5"}),
    "two-ranges": ("GET", GET | {"range": "bytes=0-1,3-4"}),
    "other-unit": ("GET", GET | {"range": "pieces=0-1"}),
    "negative": ("GET", GET | {"range": "bytes=-5-4"}),
    "backwards": ("GET", GET | {"range": "bytes=5-4"}),
    "backwards-put": ("PUT", PUT | {"content-range": "bytes 5-4/*", "content-length": "0"}),
    "sixteen-digits": ("GET", GET | {"range": f"bytes=0-{10**15}"}),
    "no-total": ("PUT", PUT | {"content-range": "bytes 5-104"}),
    "a-byte-short": ("PUT", PUT | {"content-length": "99"}),
    "a-byte-long": ("PUT", PUT | {"content-length": "101"}),
    "no-length": ("PUT", {name: PUT[name] for name in PUT if name != "content-length"}),
    "no-number": ("PUT", PUT | {"content-length": "many"}),
    "chunked": ("PUT", NAMES | {"content-range": "bytes 5-104/*", "transfer-encoding": "chunked"}),
    "chunked-and-length": ("PUT", PUT | {"transfer-encoding": "chunked"}),
    "get-with-a-body": ("GET", GET | {"content-length": "1"}),
    "get-with-chunks": ("GET", GET | {"transfer-encoding": "chunked"}),
    "post": ("POST", PUT),
    "head": ("HEAD", GET),
    "no-hex": ("GET", GET | {"cloister-blob": "z" * 32}),
    "odd-hex": ("GET", GET | {"cloister-plan": "abc"}),
    "hex-of-other-letters": ("GET", GET | {"cloister-blob": "\u0664" * 32}),
    "no-host": ("GET", {name: GET[name] for name in GET if name != "host"}),
}


@pytest.mark.parametrize(("method", "fields"), MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_request_here_is_malformed(method: str, fields: dict[str, str]) -> None:
    assert fault_of(head(method, fields)) is Reason.MALFORMED


@pytest.mark.parametrize("target", ["/", TARGET + "/", TARGET + "?x=1", "*", "http://h" + TARGET, TARGET.upper()])
def test_there_is_one_path(target: str) -> None:
    assert fault_of(head("GET", GET, target=target)) is Reason.MALFORMED


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01", b"EHLO there\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n", b"\0"])
def test_what_is_not_http_is_malformed(data: bytes) -> None:
    assert fault_of(data) is Reason.MALFORMED


@pytest.mark.parametrize("names", [{"cloister-plan": ""}, {"cloister-blob": "00" * 15}, {"cloister-blob": "00" * 17}])
def test_a_name_of_another_length_is_malformed(names: dict[str, str]) -> None:
    with pytest.raises(ProtocolError) as caught:
        _ = read(head("GET", GET | names)).name
    assert caught.value.reason is Reason.MALFORMED


def test_a_head_that_grows_beyond_its_bound_is_malformed() -> None:
    long = head("GET", GET | {"x": "y" * (2 * MAX_HEAD_BYTES)})
    reader, request = HeadReader(), None
    for start in range(0, len(long), 1000):
        request = reader.feed(long[start : start + 1000])
        if request is not None:
            break
    assert request is not None
    assert request.fault is not None
    assert start <= MAX_HEAD_BYTES + 1000


def test_a_head_within_its_bound_is_read() -> None:
    assert read(head("GET", GET | {"x": "y" * (MAX_HEAD_BYTES - 400)})).fault is None


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """``data`` in the pieces between ``cuts``, none of them empty."""
    edges = sorted({0, len(data), *(at % len(data) for at in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


heads = st.one_of(
    st.builds(
        lambda first, size: head("GET", GET | {"range": f"bytes={first}-{first + size - 1}"}),
        st.integers(0, 10**12),
        st.integers(1, 10**12),
    ),
    st.builds(
        lambda first, size: head(
            "PUT", PUT | {"content-range": f"bytes {first}-{first + size - 1}/*", "content-length": str(size)}
        ),
        st.integers(0, 10**12),
        st.integers(1, 10**12),
    ),
    st.sampled_from([head(*item) for item in MALFORMED.values()]),
)


@given(heads, st.binary(max_size=300), st.lists(st.integers(0, 2000), max_size=12))
def test_a_head_in_any_pieces_is_the_same_request_and_what_stands_behind_it_stays(
    data: bytes, body: bytes, cuts: list[int]
) -> None:
    whole = read(data)
    reader, pieces = HeadReader(), cut(data + body, cuts)
    request = None
    while request is None:
        request = reader.feed(pieces.pop(0))
    if whole.fault is None:
        assert request == whole
        assert reader.rest + b"".join(pieces) == body
    else:
        assert request.fault is not None
        assert request.fault.reason is whole.fault.reason


@given(st.lists(st.binary(min_size=1, max_size=400), max_size=60))
def test_garbage_is_a_fault_or_not_yet_a_request(pieces: list[bytes]) -> None:
    reader = HeadReader()
    for piece in pieces:
        request = reader.feed(piece)
        if request is not None:
            assert isinstance(request.fault, ProtocolError)
            return


@given(heads, st.data())
def test_a_head_with_some_bytes_changed_is_a_request_or_a_fault_and_never_anything_else(
    data: bytes, draws: st.DataObject
) -> None:
    changed = bytearray(data)
    for _ in range(draws.draw(st.integers(1, 4))):
        changed[draws.draw(st.integers(0, len(data) - 1))] = draws.draw(st.integers(0, 255))
    request = HeadReader().feed(bytes(changed))
    if request is not None and request.fault is None:
        assert request.method in ("GET", "PUT")
        assert request.size_bytes > 0
        assert request.offset >= 0


@pytest.mark.parametrize("status", [200, 206, 400, 403, 404, 409, 416, 429, 500, 503, 599])
def test_heads_of_answers_are_http(status: int) -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target=TARGET, headers=[("host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(encode_head(status, ("cloister-received", 12), ("content-length", 3)) + b"abc")
    answer, data = client.next_event(), client.next_event()
    assert isinstance(answer, h11.Response)
    assert isinstance(data, h11.Data)
    assert answer.status_code == status
    assert dict(answer.headers)[b"cloister-received"] == b"12"
    assert bytes(data.data) == b"abc"


def test_a_request_does_not_tell_its_name_where_it_is_shown() -> None:
    blob = token_bytes(16)
    assert blob.hex() not in repr(read(head("GET", GET | {"cloister-blob": blob.hex()})).name)
