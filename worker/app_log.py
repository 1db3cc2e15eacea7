"""The app's own words, sealed for its member: what a worker writes to its host's disk, and how the member opens it.

Trust zone: worker, and the member's own machine. The words may quote the member's data, and the disk is the host's. A
log is one *start* of a worker after another, in blocks of one size: a head, with a key sealed to the member's sealing
key, then parts under that key. The newest part is written again while it fills (*tail*); only a start that ends in its
turn has a *last* one. What is cut, altered or put in another order within a start is told. The host sees how many
blocks there are and when they change. It can drop whole starts and, since anybody can seal to a public key, put
another log in the place of all of it: a log explains an error, and proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from secrets import token_bytes
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trusted.errors import AppError, ChannelError, Reason, WireError
from trusted.hpke import SealingKey, seal
from trusted.wire import length_prefixed, pack, sha256, unpack

BLOCK_BYTES = 16 * 1024  # one size for all: how much was printed at a time is nobody's business
MAX_PARTS = 4096  # 64 MiB a start; stops an app that prints until the disk is full
_LABEL = "cloister/app-log/v1"
_PURPOSE = b"app-log"
_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES, _LENGTH_BYTES = 32, 12, 16, 2
_PADDED_BYTES = BLOCK_BYTES - 1 - _NONCE_BYTES - _TAG_BYTES
WORDS_A_PART = _PADDED_BYTES - _LENGTH_BYTES
_HEAD = b"S"


class Part(Enum):
    """What a part is: whole and followed by another, the newest one so far, or the last of its start."""

    WHOLE = b"P"
    TAIL = b"T"
    LAST = b"E"


@dataclass(frozen=True, slots=True)
class Reader:
    """For whom a log is sealed: the member and its sealing key (1216 bytes, from the charter), in one plan."""

    member: str
    plan: bytes
    sealing_key: bytes = field(repr=False)


class LogSealer:
    """Seals the words of one start: :attr:`head` is its first block, :meth:`part` makes the others."""

    def __init__(self, reader: Reader) -> None:
        key, member = token_bytes(_KEY_BYTES), reader.member.encode()
        record = pack(_LABEL, reader.plan, member, seal(reader.sealing_key, key, _PURPOSE, reader.plan, member))
        self.head = (_HEAD + len(record).to_bytes(_LENGTH_BYTES, "big") + record).ljust(BLOCK_BYTES, b"\0")
        self._cipher = AESGCM(key)
        self._context = sha256(self.head)

    def part(self, number: int, words: bytes, kind: Part) -> bytes:
        """The block of part ``number``, from 0, with ``words``, at most :data:`WORDS_A_PART` bytes.

        Raises:
            ValueError: more words than a part holds.
        """
        if len(words) > WORDS_A_PART:
            raise ValueError(f"words: at most {WORDS_A_PART} bytes expected")
        padded = (len(words).to_bytes(_LENGTH_BYTES, "big") + words).ljust(_PADDED_BYTES, b"\0")
        nonce = token_bytes(_NONCE_BYTES)  # drawn anew: a tail is sealed many times
        return kind.value + nonce + self._cipher.encrypt(nonce, padded, _bound(self._context, number, kind))


class End(Enum):
    """How the log of one start ends."""

    WHOLE = "whole"
    CUT = "cut"  # its enclave was ended, or somebody cut the file: nobody can tell which
    ALTERED = "altered"  # a part does not open, or is not in its place; what stands before it was opened


@dataclass(frozen=True, slots=True)
class Start:
    """The words of one start of a worker, opened."""

    member: str
    plan: bytes
    words: bytes = field(repr=False)
    end: End


def open_log(file: BinaryIO, key: SealingKey) -> Iterator[Start]:
    """Each start in ``file``, which the host had in its hands.

    Raises:
        AppError: APP_LOG: not a sealed log, or sealed to another key.
    """
    opening: _Opening | None = None
    while block := file.read(BLOCK_BYTES):
        if block[:1] == _HEAD:
            if opening is not None:
                yield opening.start()
            opening = _Opening(block, key)
        elif opening is None:
            raise _wrong("does not begin with the head of a start")
        else:
            opening.take(block)
    if opening is not None:
        yield opening.start()


class _Opening:
    """One start, opened block by block."""

    def __init__(self, head: bytes, key: SealingKey) -> None:
        begin = 1 + _LENGTH_BYTES
        record = head[begin : begin + int.from_bytes(head[1:begin], "big")]
        try:
            self._plan, member, sealed = unpack(record, _LABEL, 3, max_bytes=BLOCK_BYTES)
            self._member = member.decode()
            self._cipher = AESGCM(key.open(sealed, _PURPOSE, self._plan, member))
        except ChannelError:
            raise _wrong("sealed to another key, or its head is altered") from None
        except (WireError, ValueError):
            raise _wrong("no head of a start") from None
        self._context = sha256(head)
        self._words = bytearray()
        self._parts = 0
        self._last = Part.WHOLE
        self._altered = False

    def take(self, block: bytes) -> None:
        """The next block of the file; nothing is taken any more once one did not open."""
        if self._altered:
            return
        try:
            kind = Part(block[:1])
            nonce, sealed = block[1 : 1 + _NONCE_BYTES], block[1 + _NONCE_BYTES :]
            padded = self._cipher.decrypt(nonce, sealed, _bound(self._context, self._parts, kind))
        except (InvalidTag, ValueError):
            self._altered = True
            return
        if self._last is not Part.WHOLE:  # nothing follows a tail or a last part, but an older copy of the file
            self._altered = True
            return
        self._words += padded[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(padded[:_LENGTH_BYTES], "big")]
        self._parts, self._last = self._parts + 1, kind

    def start(self) -> Start:
        """What was opened of it."""
        end = End.ALTERED if self._altered else End.WHOLE if self._last is Part.LAST else End.CUT
        return Start(self._member, self._plan, bytes(self._words), end)


def _bound(context: bytes, number: int, kind: Part) -> bytes:
    return length_prefixed(context, number.to_bytes(8, "big"), kind.value)


def _wrong(rule: str) -> AppError:
    return AppError(Reason.APP_LOG, f"app log: {rule}")
