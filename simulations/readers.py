"""Tables from files, as columns. Trust zone: the developer's machine; the files may be damaged, and are bounded.

Numbers stay numbers (whole ones with gaps become float64 with not-a-number there), true and false bool, all else text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_FILE_BYTES = 4 << 30  # all of a dataset is in memory
MAX_TABLE_BYTES = 16 << 30  # what Parquet says that it unpacks to
MAX_ROWS = 100_000_000

Columns = dict[str, NDArray[Any]]


def read_csv(path: Path, columns: Sequence[str] = ()) -> Columns:
    """The table in a CSV file in UTF-8 with a header; these ``columns``, or all.

    Raises:
        ValueError: no such file or column, no table, or one too large.
    """
    arrow = _arrow()
    _require_file(path)
    from pyarrow import csv

    return _columns(path, _read(path, lambda: csv.read_csv(path), arrow), columns)


def read_csvs(paths: Sequence[Path], columns: Sequence[str], source: str) -> Columns:
    """Tables of the same columns below each other, and the name of each row's file, without its ending, in ``source``.

    Raises:
        ValueError: as :func:`read_csv`; no files, files that differ in their columns, or a column named ``source``.
    """
    if not paths:
        raise ValueError("dataset: no files were given")
    tables = [read_csv(path, columns) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if table.keys() != tables[0].keys():
            differing = sorted(table.keys() ^ tables[0].keys())[0]
            raise ValueError(f"{path}: other columns than {paths[0]}: only one of them has {differing!r}")
    if source in tables[0]:
        raise ValueError(f"{paths[0]}: has a column {source!r} already: name another one for the file with source=")
    joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    names = np.array([path.stem for path in paths])
    return joined | {source: np.repeat(names, [len(next(iter(table.values()))) for table in tables])}


def read_parquet(path: Path, columns: Sequence[str] = ()) -> Columns:
    """The table in a Parquet file; these ``columns``, or all.

    Raises:
        ValueError: as :func:`read_csv`; what the file says of its unpacked size is bounded before it is unpacked.
    """
    arrow = _arrow()
    _require_file(path)
    from pyarrow import parquet

    said = _read(path, lambda: parquet.read_metadata(path), arrow)
    unpacked = sum(said.row_group(place).total_byte_size for place in range(said.num_row_groups))
    if unpacked > MAX_TABLE_BYTES or said.num_rows > MAX_ROWS:
        raise ValueError(f"{path}: unpacks to more than {MAX_TABLE_BYTES >> 30} GiB or {MAX_ROWS} rows: take a part")
    _require_columns(path, parquet.read_schema(path).names, columns)
    return _columns(path, _read(path, lambda: parquet.read_table(path, columns=list(columns) or None), arrow), columns)


def read_digits() -> Columns:
    """The digits that scikit-learn carries.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise RuntimeError("the digits come with scikit-learn: pip install 'cloister[simulate]'") from None
    pixels, digits = load_digits(return_X_y=True)
    return {"pixels": (pixels / 16).astype(np.float32), "digit": digits.astype(np.int64)}


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise RuntimeError("tables are read with pyarrow: pip install 'cloister[simulate]'") from None
    return pyarrow


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: larger than {MAX_FILE_BYTES >> 30} GiB: take a part of it")


def _read(path: Path, read: Callable[[], Any], arrow: Any) -> Any:
    try:
        return read()
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: cannot be read as a table: check that the file is whole") from None


def _require_columns(path: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in there:
            raise ValueError(f"{path}: no column {name!r}; there are {', '.join(there)}")


def _columns(path: Path, table: Any, wanted: Sequence[str]) -> Columns:
    _require_columns(path, table.column_names, wanted)
    if table.num_rows == 0 or table.num_columns == 0:
        raise ValueError(f"{path}: no rows in it")
    if table.num_rows > MAX_ROWS:
        raise ValueError(f"{path}: more than {MAX_ROWS} rows: take a part of it")
    return {name: _values(path, name, table.column(name)) for name in wanted or table.column_names}


def _values(path: Path, name: str, column: Any) -> NDArray[Any]:
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        return np.array(["" if value is None else value for value in column.to_pylist()])
    if types.is_integer(kind) or types.is_floating(kind) or (types.is_boolean(kind) and not column.null_count):
        read: NDArray[Any] = column.to_numpy().copy()
        return read
    raise ValueError(f"{path}: column {name!r} holds {kind}: make it numbers or text, or name the columns to read")
