"""Canonical bytes for all that is hashed or signed (docs/protocol.md §1). Trust zone: every TEE.

Two encodings, and no third. *Records* are labelled, length-prefixed byte fields: everything read before
authentication. *Documents* are RFC 8785 JSON: what people sign, and what travels inside authenticated records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import rfc8785

from trusted import canonical
from trusted.errors import Reason, WireError

MAX_JSON_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 20  # a handshake message with its evidence; stops memory exhaustion before admission
_MAX_FIELDS = 32
_MAX_JSON_DEPTH = 16

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def sha256(data: bytes | memoryview) -> bytes:
    """SHA-256 of ``data``, 32 bytes."""
    return hashlib.sha256(data).digest()


def length_prefixed(*fields: bytes) -> bytes:
    """Each field after its length as four big-endian bytes, so that no two lists of fields encode alike."""
    return b"".join([len(field).to_bytes(4, "big") + field for field in fields])


def pack(label: str, *fields: bytes) -> bytes:
    """One record: the label and the fields, length-prefixed."""
    return length_prefixed(label.encode("ascii"), *fields)


def unpack(record: bytes, label: str, count: int, *, max_bytes: int = MAX_RECORD_BYTES) -> tuple[bytes, ...]:
    """The ``count`` fields of a record that carries ``label``. The sender may be lying.

    Raises:
        WireError: too large, another label, too few or too many fields, bytes left over.
    """
    if len(record) > max_bytes:
        raise WireError(Reason.TOO_LARGE, f"record {label}: more than {max_bytes} bytes")
    fields = _split(record, label)
    if fields[0] != label.encode("ascii"):
        raise WireError(Reason.MALFORMED, f"record {label}: another label stands first")
    if len(fields) != count + 1:
        raise WireError(Reason.MALFORMED, f"record {label}: {count} fields expected")
    return tuple(fields[1:])


def _split(record: bytes, label: str) -> list[bytes]:
    fields: list[bytes] = []
    position = 0
    while position < len(record):
        end = position + 4
        length = int.from_bytes(record[position:end], "big")
        if end > len(record) or end + length > len(record):
            raise WireError(Reason.MALFORMED, f"record {label}: a field is cut short")
        if len(fields) > _MAX_FIELDS:
            raise WireError(Reason.MALFORMED, f"record {label}: too many fields")
        fields.append(record[end : end + length])
        position = end + length
    if not fields:
        raise WireError(Reason.MALFORMED, f"record {label}: empty")
    return fields


def split_items(field: bytes, path: str, most: int) -> tuple[bytes, ...]:
    """The length-prefixed items in ``field``, at most ``most``, none of them cut short and no byte left over.

    Raises:
        WireError: MALFORMED, TOO_LARGE; ``path`` leads its text.
    """
    items: list[bytes] = []
    position = 0
    while position < len(field):
        start = position + 4
        end = start + int.from_bytes(field[position:start], "big")
        if start > len(field) or end > len(field):
            raise WireError(Reason.MALFORMED, f"{path}: an item is cut short")
        if len(items) == most:
            raise WireError(Reason.TOO_LARGE, f"{path}: at most {most} items")
        items.append(field[start:end])
        position = end
    return tuple(items)


def label_of(record: bytes) -> str:
    """The label of a record, for dispatch alone; the record is checked when it is unpacked."""
    length = int.from_bytes(record[:4], "big")
    if not 0 < length <= 64 or len(record) < 4 + length:
        raise WireError(Reason.MALFORMED, "record: no label")
    try:
        return record[4 : 4 + length].decode("ascii")
    except UnicodeDecodeError:
        raise WireError(Reason.MALFORMED, "record: the label is not ASCII") from None


def exactly(field: bytes, size: int, name: str) -> bytes:
    """``field`` if it has ``size`` bytes; never padded, never cut."""
    if len(field) != size:
        raise WireError(Reason.MALFORMED, f"{name}: exactly {size} bytes expected")
    return field


def encode_json(value: Any) -> bytes:
    """RFC 8785 bytes of ``value``."""
    return canonical.encode(value)


def decode_json(data: bytes, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value of RFC 8785 JSON, and of nothing else: a document has one spelling. The writer may be lying.

    Raises:
        WireError: too large, not JSON, not canonical (which covers duplicate keys), nested too deep.
    """
    if len(data) > max_bytes:
        raise WireError(Reason.TOO_LARGE, f"JSON: more than {max_bytes} bytes")
    if _depth_bound(data) > _MAX_JSON_DEPTH:
        raise WireError(Reason.MALFORMED, f"JSON: nested deeper than {_MAX_JSON_DEPTH}")
    try:
        value, spelling = canonical.decode(data)
    except (ValueError, RecursionError, rfc8785.CanonicalizationError):
        raise WireError(Reason.MALFORMED, "JSON: does not parse") from None
    if spelling != data:
        raise WireError(Reason.NOT_CANONICAL, "JSON: not in RFC 8785 form")
    return value


_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _depth_bound(data: bytes) -> int:
    """An upper bound of the nesting: brackets inside strings count too, which only makes the limit stricter."""
    depth = deepest = 0
    for byte in data.translate(None, delete=_NOT_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


class Fields:
    """Strict reading of one JSON object: every field is asked for once, with its type, and none is left over.

    ``with Fields(value, "plan") as fields: rounds = fields.integer("rounds", low=1, high=10_000)``
    """

    def __init__(self, value: Any, name: str) -> None:
        if not isinstance(value, dict):
            raise WireError(Reason.WRONG_TYPE, f"{name}: an object expected")
        self._value: dict[str, Any] = dict(value)
        self._name = name

    def __enter__(self) -> Fields:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._value:
            raise WireError(Reason.UNKNOWN_FIELD, f"{self._name}: unknown field {sorted(self._value)[0]!r:.60}")

    def path(self, key: str) -> str:
        """``plan.rounds``: how an error names the field."""
        return f"{self._name}.{key}"

    def take(self, key: str, *kinds: type) -> Any:
        """The value of ``key``, which must be there and be one of ``kinds`` (a bool is no integer)."""
        if key not in self._value:
            raise WireError(Reason.MISSING_FIELD, f"{self.path(key)}: missing")
        value = self._value.pop(key)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise WireError(Reason.WRONG_TYPE, f"{self.path(key)}: {expected} expected")
        return value

    def has(self, key: str) -> bool:
        """Whether an optional field is present. Only fields whose absence means something may be optional."""
        return key in self._value

    def names(self) -> list[str]:
        """The fields not yet taken, for objects whose keys are data; each is then taken like any other."""
        return sorted(self._value)

    def text(self, key: str, *, max_length: int = 4096) -> str:
        """A string of 1 to ``max_length`` characters."""
        value: str = self.take(key, str)
        if not 0 < len(value) <= max_length:
            raise WireError(Reason.MALFORMED, f"{self.path(key)}: 1 to {max_length} characters expected")
        return value

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """One of ``allowed``."""
        value = self.text(key)
        if value not in allowed:
            raise WireError(Reason.MALFORMED, f"{self.path(key)}: one of {', '.join(allowed)} expected")
        return value

    def integer(self, key: str, *, low: int, high: int) -> int:
        """An integer within [low, high]."""
        value: int = self.take(key, int)
        if not low <= value <= high:
            raise WireError(Reason.MALFORMED, f"{self.path(key)}: {low} to {high} expected")
        return value

    def number(self, key: str, *, low: float, high: float) -> float:
        """A finite number within [low, high]."""
        value = float(self.take(key, int, float))
        if not low <= value <= high:
            raise WireError(Reason.MALFORMED, f"{self.path(key)}: {low} to {high} expected")
        return value

    def boolean(self, key: str) -> bool:
        """true or false, written out."""
        value: bool = self.take(key, bool)
        return value

    def octets(self, key: str, size: int | None = None) -> bytes:
        """Lower-case hexadecimal, ``size`` bytes where a size is given."""
        text: str = self.take(key, str)
        try:
            value = bytes.fromhex(text)
        except ValueError:
            raise WireError(Reason.MALFORMED, f"{self.path(key)}: hexadecimal expected") from None
        if value.hex() != text or (size is not None and len(value) != size):
            raise WireError(Reason.MALFORMED, f"{self.path(key)}: {size or 'some'} bytes of lower-case hex expected")
        return value

    def items(self, key: str, *, max_items: int = 4096) -> list[Any]:
        """A list of at most ``max_items``."""
        value: list[Any] = self.take(key, list)
        if len(value) > max_items:
            raise WireError(Reason.TOO_LARGE, f"{self.path(key)}: at most {max_items} items")
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        """An object, to be read by its own :class:`Fields`."""
        value: dict[str, Any] = self.take(key, dict)
        return value
