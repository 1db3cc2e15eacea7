"""The messages between an aggregator and the host that carries for it (docs/protocol.md §8). Trust zone: both sides.

Pure codec, no I/O: a message is ``length u32 | kind u8 | channel u64 | body``, big-endian, where the length counts what
follows it (9 bytes and the body). The host listens; each aggregator dials two connections and registers both:

1. *control*: both sides send when they like. ``channel`` is the session that the host numbered, 0 where none is meant.
2. *data*: the aggregator asks, the host answers, strictly one and one. ``channel`` is 0.

Either side may be lying to the other: lengths are bounded before anything is allocated, and every body has one form.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, unique
from struct import Struct
from typing import NoReturn

from trusted.errors import Reason, WireError

MAX_CONTROL_BODY = 2 << 20
MAX_DATA_CHUNK = 4 << 20
HEADER_BYTES = 13
PLAN_BYTES = 32
BLOB_BYTES = 16
TOKEN_BYTES = 16

_HEADER = Struct(">IBQ")
_COUNTED = HEADER_BYTES - 4  # the length field does not count itself
_REGISTER = Struct(">32sB16s")
_EXPECT = Struct(">16sQ")
_DECLINE = Struct(">16sH")
_READ = Struct(">16sQI")
_WRITE = Struct(">16sQB")
_REASON = Struct(">H")
WRITE_HEADER_BYTES = _WRITE.size


@unique
class DoorKind(IntEnum):
    """What a message is: 1–15 aggregator → host on control, 16–31 host → aggregator, 32–47 data; FRAME both ways."""

    REGISTER = 1  # Registration: the first message of either connection
    FRAME = 2  # one opaque frame of the session in ``channel``
    CLOSE = 3  # reason u16: the host ends the session in ``channel``
    EXPECT = 4  # Announcement: a blob that a worker will upload
    EVENT = 5  # a public event, JSON; ``channel`` is its number under the registration's token (1, 2, 3…), or 0
    DISCARD = 6  # blob: no longer needed

    REGISTERED = 16  # empty: the first answer on either connection
    REFUSED = 17  # reason u16: the registration, or the data request, is refused
    ATTACHED = 18  # empty: a worker's stream opened; ``channel`` is its number, never used again
    DETACHED = 19  # empty: that stream is over
    START = 20  # the signed order (DSSE JSON) that started the run; sent again after each registration
    STOP = 21  # the signed order that stops it
    ARRIVED = 22  # blob: an expected blob is complete; sent again when a complete blob is expected again
    DECLINED = 23  # Decline: the host has no room for an expected blob, or knows its name as another one
    RECORDED = 24  # empty: the event of this number is stored, now or before; one of number 0 is not answered
    PAUSE = 25  # the signed order that pauses it; the newer one of this and RESUME is sent again, ahead of START
    RESUME = 26  # the signed order that lets a paused run go on
    OVER = 27  # empty: the run is over by all that this host was told; there may still be workers to send home

    READ = 32  # BlobRange; answered by DATA or MISSING
    DATA = 33  # the bytes; fewer than asked only at the end of what the host has
    MISSING = 34  # empty: no such blob, or nothing at that offset yet
    WRITE = 35  # BlobWrite, its data behind it; answered by STORED or REFUSED
    STORED = 36  # empty


@unique
class DoorRole(IntEnum):
    """Which of the aggregator's two connections this is."""

    CONTROL = 1
    DATA = 2


@dataclass(frozen=True, slots=True)
class DoorMessage:
    """One message, of a kind that exists and within its bounds."""

    kind: DoorKind
    channel: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Registration:
    """REGISTER: ``token`` (16 random bytes, the same on both) ties a data connection to its control connection."""

    plan: bytes
    role: DoorRole
    token: bytes

    def __repr__(self) -> str:
        return f"Registration(plan={self.plan.hex()[:12]}…, role={self.role.name})"

    def encode(self) -> bytes:
        """49 bytes."""
        return _REGISTER.pack(
            _sized(self.plan, PLAN_BYTES, "plan"), self.role, _sized(self.token, TOKEN_BYTES, "registration token")
        )

    @classmethod
    def decode(cls, body: bytes) -> Registration:
        """The registration in ``body``.

        Raises:
            WireError: not 49 bytes, or a role that does not exist.
        """
        plan, role, token = _REGISTER.unpack(_sized(body, _REGISTER.size, "REGISTER"))
        try:
            return cls(plan, DoorRole(role), token)
        except ValueError:
            _refuse(Reason.MALFORMED, "REGISTER: the role is control or data")


@dataclass(frozen=True, slots=True)
class Announcement:
    """EXPECT: the name (16 bytes) and the exact size of a blob that a worker will upload."""

    blob: bytes
    size_bytes: int

    def encode(self) -> bytes:
        """24 bytes."""
        return _EXPECT.pack(_sized(self.blob, BLOB_BYTES, "blob"), self.size_bytes)

    @classmethod
    def decode(cls, body: bytes) -> Announcement:
        """The announcement in ``body``, or :class:`WireError`."""
        return cls(*_EXPECT.unpack(_sized(body, _EXPECT.size, "EXPECT")))


@dataclass(frozen=True, slots=True)
class Decline:
    """DECLINED: why the host will not take the uploads of ``blob``."""

    blob: bytes
    reason: int

    def encode(self) -> bytes:
        """18 bytes."""
        return _DECLINE.pack(_sized(self.blob, BLOB_BYTES, "blob"), self.reason)

    @classmethod
    def decode(cls, body: bytes) -> Decline:
        """The decline in ``body``, or :class:`WireError`."""
        return cls(*_DECLINE.unpack(_sized(body, _DECLINE.size, "DECLINED")))


@dataclass(frozen=True, slots=True)
class BlobRange:
    """READ: at most ``size_bytes`` (1 to 4 MiB) of a blob from ``offset``."""

    blob: bytes
    offset: int
    size_bytes: int

    def encode(self) -> bytes:
        """28 bytes."""
        return _READ.pack(_sized(self.blob, BLOB_BYTES, "blob"), self.offset, self.size_bytes)

    @classmethod
    def decode(cls, body: bytes) -> BlobRange:
        """The range in ``body``, or :class:`WireError`."""
        request = cls(*_READ.unpack(_sized(body, _READ.size, "READ")))
        if not 0 < request.size_bytes <= MAX_DATA_CHUNK:
            _refuse(Reason.TOO_LARGE, f"READ: 1 to {MAX_DATA_CHUNK} bytes")
        return request


@dataclass(frozen=True, slots=True)
class BlobWrite:
    """WRITE without its data: where the data goes, and whether the blob ends behind it."""

    blob: bytes
    offset: int
    last: bool

    def encode(self) -> bytes:
        """25 bytes, to be followed by at most 4 MiB of data."""
        return _WRITE.pack(_sized(self.blob, BLOB_BYTES, "blob"), self.offset, self.last)

    @classmethod
    def decode(cls, body: bytes | memoryview) -> tuple[BlobWrite, memoryview]:
        """The write in ``body`` and a view of its data, or :class:`WireError`."""
        if len(body) < _WRITE.size:
            _refuse(Reason.MALFORMED, f"WRITE: at least {_WRITE.size} bytes")
        blob, offset, last = _WRITE.unpack_from(body)
        if last > 1:
            _refuse(Reason.MALFORMED, "WRITE: the last flag is 0 or 1")
        return cls(blob, offset, bool(last)), memoryview(body)[_WRITE.size :]


def encode_reason(reason: int) -> bytes:
    """The body of CLOSE and REFUSED: two bytes."""
    return _REASON.pack(reason)


def decode_reason(body: bytes) -> int:
    """The number in the body of CLOSE or REFUSED. It may name a reason that this version does not know."""
    number: int = _REASON.unpack(_sized(body, _REASON.size, "reason"))[0]
    return number


def decode_blob(body: bytes) -> bytes:
    """The blob name that DISCARD and ARRIVED carry, exactly 16 bytes."""
    return _sized(body, BLOB_BYTES, "blob")


def max_body(kind: DoorKind) -> int:
    """How long the body of ``kind`` may be; stops a peer from making the other one allocate."""
    if kind is DoorKind.DATA:
        return MAX_DATA_CHUNK
    if kind is DoorKind.WRITE:
        return MAX_DATA_CHUNK + WRITE_HEADER_BYTES
    return MAX_CONTROL_BODY


def encode_header(kind: DoorKind, channel: int, body_bytes: int) -> bytes:
    """The 13 bytes before a body of ``body_bytes``, for senders that do not hold the body in one piece.

    Raises:
        WireError: the body is longer than its kind allows.
    """
    if body_bytes > max_body(kind):
        _refuse(Reason.TOO_LARGE, f"door {kind.name}: at most {max_body(kind)} bytes")
    return _HEADER.pack(_COUNTED + body_bytes, kind, channel)


def encode_message(kind: DoorKind, channel: int = 0, body: bytes = b"") -> bytes:
    """One whole message."""
    return encode_header(kind, channel, len(body)) + body


def decode_header(header: bytes) -> tuple[DoorKind, int, int]:
    """(kind, channel, body length) of 13 bytes, checked before a byte of the body is read.

    Raises:
        WireError: an unknown kind, or a length that its kind does not allow.
    """
    length, number, channel = _HEADER.unpack(_sized(header, HEADER_BYTES, "door header"))
    try:
        kind = DoorKind(number)
    except ValueError:
        _refuse(Reason.MALFORMED, "door: unknown kind")
    if not _COUNTED <= length <= _COUNTED + max_body(kind):
        _refuse(Reason.TOO_LARGE, f"door {kind.name}: a length between {_COUNTED} and {_COUNTED + max_body(kind)}")
    return kind, channel, length - _COUNTED


class DoorReader:
    """Messages out of a byte stream that arrives in any pieces. After an error the stream is lost: close it."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[DoorMessage]:
        """Every message that ``data`` completes.

        Raises:
            WireError: the stream does not hold messages.
        """
        self._pending += data
        messages: list[DoorMessage] = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def _next(self) -> DoorMessage | None:
        if len(self._pending) < HEADER_BYTES:
            return None
        kind, channel, body_bytes = decode_header(bytes(self._pending[:HEADER_BYTES]))
        end = HEADER_BYTES + body_bytes
        if len(self._pending) < end:
            return None
        body = bytes(self._pending[HEADER_BYTES:end])
        del self._pending[:end]
        return DoorMessage(kind, channel, body)


@unique
class Family(Enum):
    """How the door is reached."""

    UNIX = "unix"
    TCP = "tcp"
    VSOCK = "vsock"


_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a door is. ``host`` is a path, a loopback name, or a vsock context id; ``port`` is 0 for Unix sockets."""

    family: Family
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """``unix:/path``, ``tcp:127.0.0.1:port`` or ``vsock:cid:port``.

        Raises:
            WireError: another form, or TCP elsewhere than on loopback: the door has no transport security, and beyond
                one machine anybody could act as host or aggregator.
        """
        scheme, _, rest = text.partition(":")
        if scheme == Family.UNIX.value and rest.startswith("/"):
            return cls(Family.UNIX, rest, 0)
        host, _, port = rest.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if scheme == Family.TCP.value and port.isascii() and port.isdigit() and int(port) < 1 << 16:
            if host not in _LOOPBACK:
                _refuse(Reason.MALFORMED, "door address: TCP is allowed on 127.0.0.1, ::1 and localhost only")
            return cls(Family.TCP, host, int(port))
        if scheme == Family.VSOCK.value and all(part.isascii() and part.isdigit() for part in (host, port)):
            return cls(Family.VSOCK, host, int(port))
        raise WireError(Reason.MALFORMED, "door address: unix:/path, tcp:127.0.0.1:port or vsock:cid:port expected")

    def __str__(self) -> str:
        if self.family is Family.UNIX:
            return f"unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.family.value}:{host}:{self.port}"


def _sized(field: bytes, size: int, name: str) -> bytes:
    if len(field) != size:
        _refuse(Reason.MALFORMED, f"{name}: exactly {size} bytes expected")
    return field


def _refuse(reason: Reason, detail: str) -> NoReturn:
    raise WireError(reason, detail)
