"""A steward's data as rows of text, whatever file it comes in: CSV, a folder of CSV, Parquet. Zone: member's machine.

A row is the same text whether its file was CSV or Parquet: numbers in the shortest spelling that reads back as
themselves, times in ISO 8601, nothing for null and not-a-number. Never more than one batch is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.output import UserError
from trusted.documents.terms import ColumnRule, ColumnType
from worker.dataset import Source, read_table, sealed_header

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 16_384
_PARQUET = b"PAR1"
_CONVERT = "Convert the column to numbers, text, dates or true and false, or leave it out of the file."

Spelling = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Table:
    """One table: the name of its file, its columns, and its rows, which are read once."""

    name: str
    header: list[str]
    rows: Iterator[list[str]]


def tables(source: Path, rules: Mapping[str, ColumnRule], key: bytes | None = None) -> Iterator[Table]:
    """The tables of ``source``; ``key`` (32 bytes) opens it where it is sealed.

    Raises:
        UserError: no such data, or a Parquet column that has no spelling as text.
        AppError, BlobError: it cannot be read as a table, or does not open.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder", "Give a CSV or Parquet file, or a folder of CSV files.")
    if source.is_dir() and not any(source.glob("*.csv")) and any(source.glob("*.parquet")):
        for path in sorted(source.glob("*.parquet")):
            yield from _parquet(path, rules)
    elif source.is_file() and _begins_with(source, _PARQUET):
        yield from _parquet(source, rules)
    else:
        for name, pieces in Source(source, key).tables():
            rows = read_table(pieces)
            yield Table(name, next(rows, []), rows)


def needs_key(source: Path) -> bool:
    """Whether ``source`` is a sealed file."""
    return source.exists() and sealed_header(source) is not None


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _parquet(path: Path, rules: Mapping[str, ColumnRule]) -> Iterator[Table]:
    with _opened(path) as file:
        schema = file.schema_arrow
        spelled = [_spelling(path, one.name, one.type, rules.get(one.name)) for one in schema]
        yield Table(path.name, [one.name for one in schema], _rows(file, spelled))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path}: cannot be read as Parquet", "Check that the file is whole.") from None


def _rows(file: Any, spelled: list[Spelling]) -> Iterator[list[str]]:
    for batch in file.iter_batches(batch_size=_BATCH_ROWS):
        columns = [list(map(spell, _values(column))) for spell, column in zip(spelled, batch.columns, strict=True)]
        yield from map(list, zip(*columns, strict=True))


def _values(column: pa.Array) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):
        return [str(value) for value in column.to_numpy(zero_copy_only=False)]  # as float64 it had more digits
    return list(column.to_pylist())


def _spelling(path: Path, name: str, kind: pa.DataType, rule: ColumnRule | None) -> Spelling:
    """How a value of the type ``kind`` is written. Whole floats become whole numbers where the contract wants those."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _spelling(path, name, kind.value_type, rule)
    if types.is_boolean(kind):
        return lambda value: "" if value is None else ("true" if value else "false")
    if types.is_floating(kind):
        whole = rule is not None and rule.type is ColumnType.INTEGER
        return lambda value: _float(value, whole=whole)
    if types.is_timestamp(kind):
        return _moment
    if types.is_decimal(kind):
        return lambda value: "" if value is None else _decimal(value)
    if types.is_date(kind):
        return lambda value: "" if value is None else str(value.isoformat())
    if types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        return lambda value: "" if value is None else str(value)
    if kind == pa.string_view():
        return lambda value: "" if value is None else str(value)
    raise UserError(f"{path}: column {name!r} is of the Parquet type {kind}, which has no spelling as text", _CONVERT)


def _float(value: float | str | None, *, whole: bool) -> str:
    """The shortest text of a float of its own width; not-a-number is how many writers say null."""
    if value is None or str(value) == "nan":
        return ""
    if whole and float(value).is_integer():
        return str(int(float(value)))
    return str(value) if isinstance(value, str) else repr(value)


def _decimal(value: Decimal) -> str:
    return format(value, "f")


def _moment(value: datetime | None) -> str:
    """A time with a zone is written in UTC; one without is written as it stands, and counts as UTC."""
    if value is None:
        return ""
    if value.tzinfo is None:
        return value.isoformat()
    return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
