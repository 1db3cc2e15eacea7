"""A strict reading of the CBOR that attestation documents use (RFC 8949). Trust zone: every TEE.

It knows integers, byte and text strings, arrays, maps, tags, true, false and null, in their shortest form, and refuses
all else: floats, duplicate keys, bytes left over, deep nesting. A tag's meaning is left to the reader. These bytes come
from peers that nobody has authenticated yet, and a general decoder does more for them than is asked: it accepts other
spellings of the same value, and builds regular expressions, dates or cyclic objects for whoever sends such a tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from trusted.errors import AttestationError, Reason

MAX_BYTES = 32 << 10
_MAX_DEPTH = 8
_INDEFINITE = 31
_BREAK = 0xFF
_FALSE, _TRUE, _NULL = 20, 21, 22


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value under a tag. What the tag means is for the reader to know."""

    tag: int
    value: Value


Value = None | bool | int | bytes | str | tuple["Value", ...] | Mapping[int | str, "Value"] | Tagged


def decode(data: bytes, what: str, *, max_bytes: int = MAX_BYTES, streamed: bool = False) -> Value:
    """The one value that ``data`` spells. The sender may be lying.

    Args:
        data: what to read, all of it.
        what: how errors name it.
        max_bytes: what is not even looked at beyond this.
        streamed: arrays and maps of indefinite length are read too. For signed payloads only, where the signature
            leaves no choice of spelling: the Nitro security module opens its documents so.

    Raises:
        AttestationError: EVIDENCE_FORMAT.
    """
    if len(data) > max_bytes:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{what}: at most {max_bytes} bytes expected")
    reader = _Reader(data, what, streamed=streamed)
    value = reader.item(depth=1)
    if reader.position != len(data):
        reader.refuse("bytes left over")
    return value


class _Reader:
    """A position in ``data``, which only moves forward."""

    __slots__ = ("_data", "_streamed", "_what", "position")

    def __init__(self, data: bytes, what: str, *, streamed: bool) -> None:
        self._data = data
        self._what = what
        self._streamed = streamed
        self.position = 0

    def refuse(self, why: str) -> NoReturn:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{self._what}: strict CBOR expected: {why}")

    def item(self, depth: int) -> Value:
        """The next value."""
        if depth > _MAX_DEPTH:
            self.refuse("nested too deep")
        major, argument = self._head()
        if major == 0:
            return argument
        if major == 1:
            return -1 - argument
        if major == 2:
            return self._take(argument)
        if major == 3:
            return self._text(argument)
        if major == 4:
            return self._array(argument, depth)
        if major == 5:
            return self._map(argument, depth)
        if major == 6:
            return Tagged(argument, self.item(depth + 1))
        return self._simple(argument)

    def _head(self) -> tuple[int, int]:
        """Major type and argument; -1 for the indefinite length of an array or a map."""
        initial = self._take(1)[0]
        major, info = initial >> 5, initial & 0x1F
        if info < 24:
            return major, info
        if info == _INDEFINITE and self._streamed and major in (4, 5):
            return major, -1
        if info > 27 or major == 7:
            self.refuse("definite lengths and no floats")
        size = 1 << info - 24
        argument = int.from_bytes(self._take(size), "big")
        if argument < 24 or (size > 1 and argument < 1 << 4 * size):
            self.refuse("lengths and integers in their shortest form")
        return major, argument

    def _take(self, size: int) -> bytes:
        end = self.position + size
        taken = self._data[self.position : end]
        if len(taken) != size:
            self.refuse("cut short")
        self.position = end
        return taken

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode("utf-8")
        except UnicodeDecodeError:
            self.refuse("text in UTF-8")

    def _array(self, count: int, depth: int) -> tuple[Value, ...]:
        items: list[Value] = []
        while self._more(count, len(items)):
            items.append(self.item(depth + 1))
        return tuple(items)

    def _map(self, count: int, depth: int) -> Mapping[int | str, Value]:
        entries: dict[int | str, Value] = {}
        while self._more(count, len(entries)):
            key = self.item(depth + 1)
            if type(key) is not int and type(key) is not str:
                self.refuse("integers or text as keys")
            if key in entries:
                self.refuse("no key twice")
            entries[key] = self.item(depth + 1)
        return entries

    def _more(self, count: int, have: int) -> bool:
        """Whether another element follows; steps over the break that ends an indefinite length."""
        if count >= 0:
            return have < count
        if self._data[self.position : self.position + 1] != bytes([_BREAK]):
            return True
        self.position += 1
        return False

    def _simple(self, argument: int) -> bool | None:
        if argument == _NULL:
            return None
        if argument not in (_FALSE, _TRUE):
            self.refuse("no simple values but false, true and null")
        return argument == _TRUE


def encode(value: Value) -> bytes:
    """The shortest spelling of ``value``; a map keeps the order of its keys.

    Raises:
        ValueError: an integer of more than 64 bits.
    """
    if value is None or isinstance(value, bool):
        return bytes([0xE0 | {None: _NULL, True: _TRUE, False: _FALSE}[value]])
    if isinstance(value, int):
        return _encode_head(0, value) if value >= 0 else _encode_head(1, -1 - value)
    if isinstance(value, bytes):
        return _encode_head(2, len(value)) + value
    if isinstance(value, str):
        text = value.encode("utf-8")
        return _encode_head(3, len(text)) + text
    if isinstance(value, tuple):
        return _encode_head(4, len(value)) + b"".join(map(encode, value))
    if isinstance(value, Tagged):
        return _encode_head(6, value.tag) + encode(value.value)
    entries = (encode(key) + encode(item) for key, item in value.items())
    return _encode_head(5, len(value)) + b"".join(entries)


def _encode_head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | info]) + argument.to_bytes(size, "big")
    raise ValueError("CBOR: at most 64 bits")
