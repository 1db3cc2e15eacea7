"""A Flower Message as canonical bytes of one fixed size (docs/protocol.md §6.5). Trust zone: aggregator and worker TEE.

Without pickle, and without Flower: records by name, arrays as raw numbers. Whoever wrote the bytes may be lying about
all of them, so parsing is bounded before anything is copied, and gives plain values. ``flower_records`` makes Flower's
records of these and back, in the confined child.

Form: the length of what follows before the padding (8), then ``LP(head) LP(part)…`` with lengths of 8 bytes, then
zeros. The head is a document that says of every value what it is; parts are what is large: arrays, byte strings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trusted.errors import AppError, Reason, WireError
from trusted.wire import Fields, decode_json, encode_json

MAX_HEAD_BYTES = 8 << 20
MAX_RECORDS = 64
MAX_VALUES = 100_000  # in all records of a message: stops a head that takes minutes to read
_MAX_NAME = 256
_MAX_DIMENSIONS = 32
_LENGTH = 8
_INT = range(-(1 << 63), 1 << 64)  # Flower's sint64, and its node ids
# Numbers of a fixed size and nothing else: an object array would be a pickle.
DTYPES = frozenset(
    {"bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))}
    | {"float16", "float32", "float64", "complex64", "complex128"}
)

Single = bool | int | float | str | bytes
Value = Single | list[int] | list[float] | list[bool] | list[str] | list[bytes]


@unique
class RecordKind(Enum):
    """Flower's three kinds of records."""

    ARRAYS = "arrays"
    METRICS = "metrics"
    CONFIG = "config"


@dataclass(frozen=True, slots=True)
class Opaque:
    """An array in another form than NumPy's: carried as it is, and given a meaning by the app alone."""

    dtype: str
    shape: tuple[int, ...]
    stype: str
    data: bytes = field(repr=False)


ArrayValue = NDArray[Any] | Opaque


@dataclass(frozen=True, slots=True)
class AppRecord:
    """One record: arrays by name, or values by name, in their order."""

    name: str
    kind: RecordKind
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AppMessage:
    """What an instruction or its reply says, without who says it.

    Attributes:
        kind: Flower's message type: ``train``, ``evaluate`` or ``query``, perhaps with ``.action``.
        group: Flower's group id, most often the round as text.
    """

    kind: str
    group: str
    records: tuple[AppRecord, ...]

    def encode(self, size_bytes: int) -> bytes:
        """Exactly ``size_bytes``: every message of a direction is as long as every other.

        Raises:
            AppError: MESSAGE_SIZE: it does not fit. MESSAGE_FORM: a value that no message may hold.
        """
        parts: list[bytes | memoryview] = []
        head = {
            "kind": _named(self.kind),
            "group": _text(self.group),
            "records": [[_named(one.name), one.kind.value, list(_entries(one, parts))] for one in self.records],
        }
        encoded = encode_json(head)
        if len(encoded) > MAX_HEAD_BYTES:
            raise AppError(Reason.MESSAGE_SIZE, f"message: more than {MAX_HEAD_BYTES} bytes beside its arrays")
        body = [piece for part in (encoded, *parts) for piece in (len(part).to_bytes(_LENGTH, "big"), part)]
        length = sum(len(piece) for piece in body)
        if _LENGTH + length > size_bytes:
            raise AppError(Reason.MESSAGE_SIZE, "message: larger than plan.aggregation.max_message_mib")
        return b"".join((length.to_bytes(_LENGTH, "big"), *body, bytes(size_bytes - _LENGTH - length)))

    @classmethod
    def parse(cls, data: bytes | memoryview) -> AppMessage:
        """The message in ``data``, whose writer may be lying; the arrays are copies.

        Raises:
            AppError: MESSAGE_FORM: not as :meth:`encode` writes it.
        """
        try:
            return _parsed(memoryview(data).cast("B"))
        except WireError as error:
            raise AppError(Reason.MESSAGE_FORM, f"message: {error.detail}") from None


class _Parts:
    """The length-prefixed parts of a body, one after the other."""

    def __init__(self, body: memoryview) -> None:
        self._rest = body

    def take(self) -> memoryview:
        size = int.from_bytes(self._rest[:_LENGTH], "big")
        if len(self._rest) < _LENGTH or size > len(self._rest) - _LENGTH:
            raise _wrong("a part is cut short")
        taken, self._rest = self._rest[_LENGTH : _LENGTH + size], self._rest[_LENGTH + size :]
        return taken

    def require_end(self) -> None:
        if len(self._rest):
            raise _wrong("a part that nothing names")


def _parsed(data: memoryview) -> AppMessage:
    length = int.from_bytes(data[:_LENGTH], "big")
    if len(data) < _LENGTH or length > len(data) - _LENGTH:
        raise _wrong("cut short")
    if np.frombuffer(data[_LENGTH + length :], np.uint8).any():  # padding could carry words past every check
        raise _wrong("zeros expected behind it")
    parts = _Parts(data[_LENGTH : _LENGTH + length])
    head = parts.take()
    if len(head) > MAX_HEAD_BYTES:
        raise _wrong("its head is too large")
    with Fields(decode_json(bytes(head), max_bytes=MAX_HEAD_BYTES), "message") as fields:
        kind, group = fields.text("kind", max_length=_MAX_NAME), fields.take("group", str)
        listed = fields.items("records", max_items=MAX_RECORDS)
    if len(group) > _MAX_NAME:
        raise _wrong("its group is too long")
    left = MAX_VALUES
    records = []
    for entry in listed:
        name, record_kind, values = _three(entry)
        left -= len(values)
        if left < 0:
            raise _wrong(f"more than {MAX_VALUES} values")
        records.append(_record(name, record_kind, values, parts))
    if len({record.name for record in records}) != len(records):
        raise _wrong("two records of one name")
    parts.require_end()
    return AppMessage(kind, group, tuple(records))


def _three(entry: Any) -> tuple[str, str, list[Any]]:
    if not (isinstance(entry, list) and len(entry) == 3):
        raise _wrong("a record has a name, a kind and values")
    name, kind, values = entry
    if not (
        isinstance(name, str) and 0 < len(name) <= _MAX_NAME and isinstance(kind, str) and isinstance(values, list)
    ):
        raise _wrong("a record has a name, a kind and values")
    return name, kind, values


def _record(name: str, kind: str, values: list[Any], parts: _Parts) -> AppRecord:
    if kind not in {one.value for one in RecordKind}:
        raise _wrong("a record of no known kind")
    read: dict[str, Any] = {}
    for entry in values:
        if not (isinstance(entry, list) and len(entry) >= 3 and isinstance(entry[0], str)):
            raise _wrong("a value has a name, a type and what it is")
        key = entry[0]
        if len(key) > _MAX_NAME or key in read:
            raise _wrong("a value's name is too long, or stands twice")
        if kind == RecordKind.ARRAYS.value:
            read[key] = _array(entry, parts)
        else:
            read[key] = _value(entry, parts)
            if kind == RecordKind.METRICS.value and not _is_metric(read[key]):
                raise _wrong("a metric that is no number, and no list of numbers")
    return AppRecord(name, RecordKind(kind), read)


# --- arrays -----------------------------------------------------------------------------------------------------------


def _entries(record: AppRecord, parts: list[bytes | memoryview]) -> Iterator[list[Any]]:
    for key, value in record.values.items():
        if len(key) > _MAX_NAME:
            raise _bad(f"names of at most {_MAX_NAME} characters expected")
        if record.kind is RecordKind.ARRAYS:
            yield [key, *_spelled_array(value, parts)]
        elif record.kind is RecordKind.METRICS and not _is_metric(value):
            raise _bad("metrics are numbers, or lists of numbers")
        else:
            yield [key, *_spelled(value, parts)]


def _spelled_array(value: ArrayValue, parts: list[bytes | memoryview]) -> list[Any]:
    if isinstance(value, Opaque):
        parts.append(value.data)
        return ["opaque", value.dtype, list(value.shape), value.stype]
    if value.dtype.name not in DTYPES:
        raise _bad("arrays of plain numbers expected")
    little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
    parts.append(little.tobytes())
    return ["raw", value.dtype.name, list(value.shape)]


def _array(entry: list[Any], parts: _Parts) -> ArrayValue:
    form, dtype, shape = entry[1], entry[2] if len(entry) > 2 else None, entry[3] if len(entry) > 3 else None
    if not (isinstance(dtype, str) and isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS):
        raise _wrong("an array has a dtype and a shape")
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 <= side < 1 << 40 for side in shape):
        raise _wrong("a shape has sides from 0")
    data = parts.take()
    if form == "opaque" and len(entry) == 5 and isinstance(entry[4], str) and len(dtype) + len(entry[4]) <= _MAX_NAME:
        return Opaque(dtype, tuple(shape), entry[4], bytes(data))
    if form != "raw" or len(entry) != 4 or dtype not in DTYPES:
        raise _wrong("arrays of plain numbers expected")
    little = np.dtype(dtype).newbyteorder("<")
    if len(data) != math.prod(shape) * little.itemsize:
        raise _wrong("an array has another size than its shape says")
    if dtype == "bool" and (np.frombuffer(data, np.uint8) > 1).any():
        raise _wrong("a truth value is 0 or 1")
    return np.frombuffer(data, little).astype(np.dtype(dtype)).reshape(shape)


# --- values -----------------------------------------------------------------------------------------------------------


def _spelled(value: Value, parts: list[bytes | memoryview]) -> list[Any]:
    """Numbers as text: JSON has neither 64 bits, nor NaN, nor a float that is whole."""
    if isinstance(value, list):
        kinds = {_kind_of(one) for one in value}
        if len(kinds) > 1:
            raise _bad("lists of one type expected")
        return [f"{kinds.pop() if kinds else 'int'}*", [_one(one, parts) for one in value]]
    return [_kind_of(value), _one(value, parts)]


def _kind_of(value: Any) -> str:
    for kind in (bool, int, float, str, bytes):  # a bool is an int
        if isinstance(value, kind):
            return kind.__name__
    raise _bad("true, false, a number, text, bytes, or a list of these expected")


def _one(value: Single, parts: list[bytes | memoryview]) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value not in _INT:
            raise _bad("whole numbers of 64 bits expected")
        return str(int(value))
    if isinstance(value, float):
        return float(value).hex()
    if isinstance(value, bytes):
        parts.append(value)
        return len(value)
    return value


def _value(entry: list[Any], parts: _Parts) -> Value:
    if len(entry) != 3 or not isinstance(entry[1], str):
        raise _wrong("a value has a name, a type and what it is")
    kind, spelled = entry[1].removesuffix("*"), entry[2]
    if kind not in _READERS:
        raise _wrong("a value of no known type")
    read = _READERS[kind]
    if not entry[1].endswith("*"):
        single: Value = read(spelled, parts)
        return single
    if not isinstance(spelled, list) or len(spelled) > MAX_VALUES:
        raise _wrong(f"a list of at most {MAX_VALUES} expected")
    return [read(one, parts) for one in spelled]


def _read_bool(spelled: Any, _: _Parts) -> bool:
    if not isinstance(spelled, bool):
        raise _wrong("true or false expected")
    return spelled


def _read_int(spelled: Any, _: _Parts) -> int:
    if isinstance(spelled, str) and len(spelled) <= 20:
        try:
            value = int(spelled)
        except ValueError:
            value = _INT.stop
        if value in _INT and str(value) == spelled:
            return value
    raise _wrong("a whole number of 64 bits expected")


def _read_float(spelled: Any, _: _Parts) -> float:
    if isinstance(spelled, str) and len(spelled) <= 32:
        try:
            value = float.fromhex(spelled)
        except (ValueError, OverflowError):
            value = math.inf
        if value.hex() == spelled:
            return value
    raise _wrong("a number as float.hex writes it expected")


def _read_str(spelled: Any, _: _Parts) -> str:
    if not isinstance(spelled, str):
        raise _wrong("text expected")
    return spelled


def _read_bytes(spelled: Any, parts: _Parts) -> bytes:
    data = parts.take()
    if isinstance(spelled, bool) or spelled != len(data):
        raise _wrong("bytes have another length than they say")
    return bytes(data)


_READERS: Mapping[str, Any] = {
    "bool": _read_bool,
    "int": _read_int,
    "float": _read_float,
    "str": _read_str,
    "bytes": _read_bytes,
}


def _is_metric(value: Any) -> bool:
    single = value if isinstance(value, list) else [value]
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in single)


def _named(name: str) -> str:
    if not 0 < len(name) <= _MAX_NAME:
        raise _bad(f"names of 1 to {_MAX_NAME} characters expected")
    return name


def _text(text: str) -> str:
    if len(text) > _MAX_NAME:
        raise _bad(f"a group of at most {_MAX_NAME} characters expected")
    return text


def _wrong(rule: str) -> AppError:
    return AppError(Reason.MESSAGE_FORM, f"message: {rule}")


def _bad(rule: str) -> AppError:
    return AppError(Reason.MESSAGE_FORM, f"app's message: {rule}")
