"""Heads of the blob port's requests and answers (docs/protocol.md §9.1). Trust zone: host; no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

import h11

from coordinator.host.spool import BlobName
from trusted.errors import ProtocolError, Reason, RunError

PATH = b"/cloister/v1/blob"
MAX_HEAD_BYTES = 16 << 10
_RANGES = {
    "GET": (b"range", re.compile(rb"bytes=(\d{1,15})-(\d{1,15})")),
    "PUT": (b"content-range", re.compile(rb"bytes (\d{1,15})-(\d{1,15})/(?:\d{1,15}|\*)")),
}
_PHRASES = {
    200: "OK",
    206: "Partial Content",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    416: "Range Not Satisfiable",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Request:
    """What a request asks: to take or to give ``size_bytes`` from ``offset`` on.

    ``goes_on``: the peer may ask for more behind it. ``waits``: it sends nothing before it is told to. ``fault``: why
    it is refused, if it is no request here.
    """

    method: str
    plan: bytes = b""
    blob: bytes = b""
    offset: int = 0
    size_bytes: int = 0
    goes_on: bool = False
    waits: bool = False
    fault: ProtocolError | None = None

    @property
    def name(self) -> BlobName:
        """The blob that is meant.

        Raises:
            RunError: MALFORMED: plan or blob has another length than it must.
        """
        return BlobName(self.plan, self.blob)


class HeadReader:
    """One request's head, out of bytes that arrive in any pieces."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    def feed(self, data: bytes) -> Request | None:
        """The request, once ``data`` completes it."""
        try:
            self._connection.receive_data(data)
            event = self._connection.next_event()
        except h11.RemoteProtocolError:
            return Request("", fault=RunError(Reason.MALFORMED, "blob port: no HTTP request, or a head of over 16 KiB"))
        if not isinstance(event, h11.Request):
            return None
        waits = self._connection.they_are_waiting_for_100_continue
        return _read(event, waits=waits)

    @property
    def rest(self) -> bytes:
        """What arrived behind the head."""
        return self._connection.trailing_data[0]


def _read(event: h11.Request, *, waits: bool) -> Request:
    fields = dict(event.headers)
    goes_on = event.http_version == b"1.1" and b"close" not in fields.get(b"connection", b"").lower()
    method = event.method.decode("ascii", "replace")
    try:
        if event.target != PATH or method not in _RANGES:
            raise RunError(Reason.MALFORMED, f"blob port: GET or PUT {PATH.decode()} expected; see docs/protocol.md")
        name, form = _RANGES[method]
        found = form.fullmatch(fields.get(name, b""))
        if found is None:
            raise RunError(Reason.MALFORMED, f"blob port: a {method} names one {name.decode()}: bytes FIRST-LAST")
        first, last = int(found[1]), int(found[2])
        body = fields.get(b"content-length", b"0") if b"transfer-encoding" not in fields else b"?"
        if last < first or body != b"%d" % (last - first + 1 if method == "PUT" else 0):
            raise RunError(Reason.MALFORMED, f"blob port: {name.decode()} and content-length contradict each other")
        return Request(
            method,
            _octets(fields, b"cloister-plan"),
            _octets(fields, b"cloister-blob"),
            first,
            last - first + 1,
            goes_on=goes_on,
            waits=waits,
        )
    except ProtocolError as fault:
        return Request(method, fault=fault)


def _octets(fields: dict[bytes, bytes], name: bytes) -> bytes:
    try:
        return bytes.fromhex(fields.get(name, b"").decode("ascii"))
    except ValueError:
        raise RunError(Reason.MALFORMED, f"blob port: {name.decode()} is written in hex") from None


def encode_head(status: int, *fields: tuple[str, str | int]) -> bytes:
    """The head of an answer."""
    lines = (f"HTTP/1.1 {status} {_PHRASES.get(status, '')}", *(f"{name}: {value}" for name, value in fields))
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii", "replace")
