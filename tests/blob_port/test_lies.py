"""A coordinator that refuses over its blob port, or lies there: what a worker makes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.blob_port.servers import (
    BLOB,
    DATA,
    LONG_S,
    MIB,
    PLAN,
    SIZE,
    BlobPort,
    Coordinator,
    Store,
    Talk,
    TlsFiles,
    a_minute_passes,
    head,
    honest,
    refusal,
    refused,
    saying,
    within,
)
from trusted.errors import ProtocolError, Reason
from worker import http_blobs
from worker.dialer import Dialer, Patience
from worker.grpc_channel import HostAddress
from worker.http_blobs import Cut, HttpBlobs, PortAway, Wanted

Make = Callable[..., Coordinator]


# A host that refuses.


@pytest.mark.parametrize("reason", [Reason.STORE_AWAY, Reason.QUOTA, Reason.HOST_SHORT, Reason.UNREACHABLE])
def test_a_refusal_that_passes_is_waited_for(make: Make, reason: Reason) -> None:
    coordinator = make(*[saying(refusal(reason.value))] * 4)
    dialer = coordinator.dialer(Patience(2, 0.01))
    error = refused(lambda: coordinator.get(dialer))
    assert error.reason is reason
    assert coordinator.port.connections == 2
    assert coordinator.get(coordinator.dialer(Patience(3, 0.01))) == DATA
    assert coordinator.first.calls["Get"] == 0


@pytest.mark.parametrize("reason", [Reason.BLOB_UNKNOWN, Reason.BLOB_OFFSET, Reason.MALFORMED])
@pytest.mark.parametrize("method", ["get", "put"])
def test_a_refusal_that_does_not_pass_is_raised_at_once(make: Make, reason: Reason, method: str) -> None:
    coordinator = make(saying(refusal(reason.value, b"the host's word")))
    dialer = coordinator.dialer()
    error = refused(lambda: coordinator.get(dialer) if method == "get" else dialer.put_blob(BLOB, DATA))
    assert error.reason is reason
    assert error.detail == "said by the host: the host's word"
    assert coordinator.port.connections == 1
    assert coordinator.get(dialer) == DATA


@pytest.mark.parametrize(
    "number", ["", "0", "1", "999", "9999", "70700", "-707", "+709", "7 09", "७०९", "x", "709, 709"]
)
def test_who_answers_without_a_known_reason_is_no_host_and_the_first_port_serves(make: Make, number: str) -> None:
    """A proxy, perhaps, that answers for it."""
    coordinator = make(saying(refusal(number)))
    assert coordinator.get(coordinator.dialer()) == DATA
    assert coordinator.first.calls == {"Http": 1, "Get": 1}
    assert coordinator.port.connections == 1
    assert coordinator.notes == ["blob-port-away"]


def test_of_a_refusals_text_no_more_is_read_than_is_shown(make: Make) -> None:
    def endless(talk: Talk) -> None:
        talk.request()
        talk.say(head(404, cloister_reason=709, content_length=1 << 40))
        talk.flood(b"word " * 20_000)

    coordinator = make(endless)
    dialer = coordinator.dialer()
    error = refused(lambda: coordinator.get(dialer))
    assert error.reason is Reason.BLOB_UNKNOWN
    assert len(error.detail) < 400
    assert coordinator.port.flooded_bytes < 64 * MIB  # what kernels hold between the two
    assert coordinator.get(dialer) == DATA


@pytest.mark.parametrize("reason", [Reason.BLOB_UNKNOWN, Reason.BLOB_TOO_LONG])
def test_who_is_refused_while_it_sends_hears_why(make: Make, maybe_tls: TlsFiles | None, reason: Reason) -> None:
    def refuse_and_hang_up(talk: Talk) -> None:
        talk.request()
        talk.say(refusal(reason.value))
        talk.end()  # with unread bytes behind it: the connection is reset

    data = bytes(20 * MIB)
    coordinator = make(refuse_and_hang_up, data=data, empty=True, tls=maybe_tls)
    dialer = coordinator.dialer()
    assert refused(lambda: dialer.put_blob(BLOB, data)).reason is reason
    assert coordinator.port.connections == 1


# A host that lies.


def flooding(first: bytes, part: bytes) -> Callable[[Talk], None]:
    def script(talk: Talk) -> None:
        talk.request()
        talk.say(first)
        talk.flood(part)

    return script


def then_end(said: bytes) -> Callable[[Talk], None]:
    def script(talk: Talk) -> None:
        asked = talk.request()
        if asked.method == "PUT":
            talk.take(asked)
        talk.say(said)

    return script


LIES: dict[str, Callable[[Talk], None]] = {
    "hangs up": lambda talk: None,
    "hangs up on a request": then_end(b""),
    "garbage": then_end(b"\x00\xff" * 50_000),
    "garbage without an end": flooding(b"", b"\xff" * 100_000),
    "another protocol": then_end(b"HTTP/2.0 206 OK\r\n\r\n"),
    "no status": then_end(b"HTTP/1.1 \r\n\r\n"),
    "a status of letters": then_end(b"HTTP/1.1 abc OK\r\n\r\n"),
    "a status of many digits": then_end(b"HTTP/1.1 " + b"2" * 60_000 + b" OK\r\n\r\n"),
    "a status line of a mebibyte": then_end(b"HTTP/1.1 206 " + b"x" * MIB + b"\r\n\r\n"),
    "a head cut short": then_end(b"HTTP/1.1 206 OK\r\ncontent-le"),
    "headers without an end": flooding(b"HTTP/1.1 206 OK\r\n", b"x: y\r\n" * 1000),
    "a header line of a mebibyte": then_end(b"HTTP/1.1 206 OK\r\nx: " + b"y" * MIB + b"\r\n\r\n"),
    "a header line without an end": flooding(b"HTTP/1.1 206 OK\r\nx: ", b"y" * 100_000),
    "bytes beyond ASCII": then_end(b"HTTP/1.1 206 \xff\r\n\xff\xfe: \xff\r\ncontent-length: \xb2\r\n\r\n"),
    "a word for a length": then_end(b"HTTP/1.1 206 OK\r\ncontent-length: much\r\n\r\n"),
    "a length below nothing": then_end(head(206, content_length=-1)),
    "a length of many digits": then_end(head(206, content_length="9" * 60_000)),
    "a redirect": then_end(head(302, location="http://127.0.0.1:1/", content_length=0)),
    "a demand for a password": then_end(head(401, www_authenticate="Basic realm=x", content_length=0)),
    "no content": then_end(head(204)),
    "not modified": then_end(head(304)),
    "an upgrade": then_end(head(101, upgrade="x", connection="upgrade")),
    "continue and no more": then_end(head(100)),
    "an error without words": then_end(head(500)),
}
GET_LIES = LIES | {
    "200 without a length": then_end(b"HTTP/1.1 200 OK\r\n\r\n" + DATA),
    "a byte less than asked for": then_end(head(206, content_length=SIZE - 1) + DATA[:-1]),
    "a byte more than asked for": then_end(head(206, content_length=SIZE + 1) + DATA + b"x"),
    "a body without an end": flooding(head(206, content_length=1 << 50), bytes(100_000)),
    "no body": then_end(head(206, content_length=SIZE)),
    "chunks": then_end(head(206, transfer_encoding="chunked") + f"{SIZE:x}\r\n".encode() + DATA + b"\r\n0\r\n\r\n"),
}
PUT_LIES = LIES | {
    "no size": then_end(head(200, content_length=0)),
    "a size below nothing": then_end(head(200, cloister_received=-1, content_length=0)),
    "a word for a size": then_end(head(200, cloister_received="all", content_length=0)),
    "digits of elsewhere": then_end("HTTP/1.1 200 OK\r\ncloister-received: ²\r\n\r\n".encode()),
    "a size of many digits": then_end(head(200, cloister_received="9" * 60_000, content_length=0)),
    "two sizes": then_end(head(200, cloister_received=f"{SIZE}, {SIZE}", content_length=0)),
    "chunks of garbage": then_end(head(200, cloister_received=SIZE, transfer_encoding="chunked") + b"zz\r\n"),
    "chunks cut short": then_end(head(200, cloister_received=SIZE, transfer_encoding="chunked")),
}
EVERY_LIE = [("get", name) for name in GET_LIES] + [("put", name) for name in PUT_LIES]


def transfer(coordinator: Coordinator, dialer: Dialer, method: str) -> None:
    """One way or the other; all of it arrives."""
    if method == "get":
        assert coordinator.get(dialer) == DATA
    else:
        coordinator.store.held.clear()
        dialer.put_blob(BLOB, DATA)
        assert coordinator.store.held == DATA


def ends(coordinator: Coordinator, dialer: Dialer, method: str) -> None:
    """A transfer comes to an end: all of it arrives, or the host is said to be out of reach."""
    said = None
    try:
        within(LONG_S, lambda: transfer(coordinator, dialer, method))
    except ProtocolError as error:
        said = error
    assert said is None or (said.reason is Reason.UNREACHABLE and len(said.detail) < 400)


@pytest.mark.parametrize(("method", "lie"), EVERY_LIE)
def test_a_port_that_lies_is_left_for_the_first_one_and_tried_again_later(make: Make, method: str, lie: str) -> None:
    coordinator = make(otherwise=(GET_LIES if method == "get" else PUT_LIES)[lie])
    dialer = coordinator.dialer(Patience(5, 0.01))
    within(LONG_S, lambda: transfer(coordinator, dialer, method))
    assert coordinator.first.calls == {"Http": 1, method.title(): 1}
    assert coordinator.port.connections <= 3
    assert coordinator.port.flooded_bytes < 64 * MIB
    assert coordinator.notes == ["blob-port-away"]
    coordinator.port.otherwise = honest
    a_minute_passes(dialer)
    within(LONG_S, lambda: transfer(coordinator, dialer, method))
    assert coordinator.first.calls == {"Http": 2, method.title(): 1}
    assert coordinator.notes == ["blob-port-away"]


@pytest.mark.parametrize("method", ["get", "put"])
def test_who_has_no_more_attempts_is_told_that_the_host_is_out_of_reach(make: Make, method: str) -> None:
    coordinator = make(*[then_end(b"")] * 2)
    dialer = coordinator.dialer(Patience(2, 0.01))
    assert refused(lambda: transfer(coordinator, dialer, method)).reason is Reason.UNREACHABLE
    assert coordinator.port.connections == 2
    transfer(coordinator, dialer, method)
    assert coordinator.port.connections == 3
    assert coordinator.first.calls == {"Http": 1}


@pytest.mark.parametrize(("method", "lie"), EVERY_LIE)
def test_a_lie_is_cut_or_away_for_who_asks_the_port_itself(make: Make, method: str, lie: str) -> None:
    coordinator = make((GET_LIES if method == "get" else PUT_LIES)[lie])
    http, wanted = (
        HttpBlobs(HostAddress(coordinator.target, None), coordinator.port.number),
        Wanted(PLAN, BLOB, 0, SIZE),
    )

    def ask() -> None:
        if method == "get":
            list(http.get(wanted, first_bytes=SIZE, then_bytes=SIZE))
        else:
            http.put(wanted, [memoryview(DATA)])

    with pytest.raises((Cut, PortAway)):
        within(LONG_S, ask)
    http.close()


@pytest.mark.parametrize("received", [0, SIZE - 1, SIZE + 1, 10**15 - 1])
def test_a_host_that_says_it_has_less_than_all_or_more_is_not_believed(make: Make, received: int) -> None:
    coordinator = make(
        then_end(head(200, cloister_received=received, cloister_total=SIZE, content_length=0)), empty=True
    )
    dialer = coordinator.dialer()
    assert refused(lambda: dialer.put_blob(BLOB, DATA)).reason is Reason.BLOB_OFFSET
    transfer(coordinator, dialer, "put")


def half_a_body(talk: Talk) -> None:
    asked = talk.request()
    talk.say(head(206, content_length=asked.size), DATA[:1000])
    talk.until_they_hang_up()


STALLS: dict[str, Callable[[Talk], None]] = {
    "silence": saying(b""),
    "half a head": saying(b"HTTP/1.1 206 OK\r\nx: y\r\n"),
    "a refusal without its text": saying(head(404, cloister_reason=709, content_length=10)),
}


@pytest.mark.parametrize(
    ("method", "stall"),
    [
        *(("get", name) for name in STALLS),
        ("get", "half a body"),
        *(("put", name) for name in STALLS),
        ("put", "half an answer"),
    ],
)
def test_a_host_that_says_nothing_more_is_left(
    make: Make, monkeypatch: pytest.MonkeyPatch, method: str, stall: str
) -> None:
    monkeypatch.setattr(http_blobs, "_SILENCE_S", 1.0)
    half_an_answer = saying(head(200, cloister_received=SIZE, content_length=10))
    script = (STALLS | {"half a body": half_a_body, "half an answer": half_an_answer})[stall]
    coordinator = make(script, script)
    dialer = coordinator.dialer(Patience(2, 0.01))
    ends(coordinator, dialer, method)
    assert coordinator.port.connections <= 2
    within(LONG_S, lambda: transfer(coordinator, dialer, method))


def test_a_host_that_reads_nothing_more_is_left(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_blobs, "_SILENCE_S", 1.0)
    monkeypatch.setattr(http_blobs, "_LAST_WORDS_S", 0.2)
    ended = threading.Event()

    def read_nothing(talk: Talk) -> None:
        talk.request()
        ended.wait(LONG_S)

    data = bytes(40 * MIB)
    coordinator = make(read_nothing, data=data, empty=True)
    dialer = coordinator.dialer(Patience(1))
    assert refused(lambda: dialer.put_blob(BLOB, data)).reason is Reason.UNREACHABLE
    ended.set()


@pytest.mark.parametrize(
    ("method", "first", "part"),
    [
        ("get", b"", head(100)),
        ("put", b"", head(100)),
        ("put", head(200, cloister_received=SIZE, transfer_encoding="chunked") + b"0\r\n", b"x: y\r\n"),
        ("get", head(404, transfer_encoding="chunked") + b"0\r\n", b"x: y\r\n"),
    ],
    ids=["continue, to a download", "continue, to an upload", "trailers", "trailers of a refusal"],
)
def test_an_answer_that_never_comes_to_its_point_is_left(make: Make, method: str, first: bytes, part: bytes) -> None:
    coordinator = make(flooding(first, part * 100))
    ends(coordinator, coordinator.dialer(Patience(1)), method)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["get", "put"])
def test_no_answer_leads_to_another_machine(make: Make, method: str, status: int) -> None:
    trap = BlobPort(Store.of(DATA))
    where = f"http://127.0.0.1:{trap.number}/cloister/v1/blob"
    coordinator = make(*[then_end(head(status, location=where, content_location=where, content_length=0))] * 2)
    dialer = coordinator.dialer(Patience(2, 0.01))
    ends(coordinator, dialer, method)
    trap.close()
    assert trap.connections == 0


def test_an_answer_that_comes_before_its_request_breaks_nothing(make: Make) -> None:
    coordinator = make(lambda talk: talk.say(head(206, content_length=SIZE), DATA))
    dialer = coordinator.dialer(Patience(2, 0.01))
    for _ in range(2):
        assert within(LONG_S, lambda: coordinator.get(dialer)) == DATA


def test_no_repr_and_no_error_holds_a_blobs_name(make: Make) -> None:
    wanted = Wanted(PLAN, BLOB, 7, 9)
    coordinator = make(*[then_end(b"garbage")] * 2)
    dialer = coordinator.dialer(Patience(1))
    errors = [refused(lambda: coordinator.get(dialer)), refused(lambda: dialer.put_blob(BLOB, DATA))]
    texts = [repr(wanted), str(wanted), *(f"{error!r} {error.__context__!r}" for error in errors)]
    for text in texts:
        assert BLOB.hex() not in text
        assert repr(BLOB)[2:-1] not in text
        assert PLAN.hex() not in text
