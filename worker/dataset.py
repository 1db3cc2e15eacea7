"""The member's data, held against the plan's contract before anybody hears of it. Trust zone: worker, and the console.

Only columns that the plan names reach the app: they are copied into a folder of their own, so that what was checked
and committed to is what the app reads, and a file that changes afterwards changes nothing. A sealed file is opened on
the way, never to disk as such. An error names a rule and at most a column of the plan; it never quotes the data, nor
the member's own column names.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trusted.row_commitment import RowCommitment
from trusted.sealed_data import DataHeader, is_sealed, open_data
from worker.contract import Gate, breach
from worker.csv_line import csv_line

MAX_FILES = 256
MAX_FILE_BYTES = 8 * 1024**3
MAX_LINE_BYTES = 1024 * 1024  # stops a file without line ends from filling the enclave's memory
_READ_BYTES = 1 << 20
SEALED_NAME = "data.csv"  # what the app sees of a sealed file


@dataclass(frozen=True, slots=True)
class DatasetCommitment:
    """What a worker binds itself to at admission.

    Attributes:
        digest: of the admitted rows, as :mod:`trusted.row_commitment` makes it.
        rows: how many rows the contract counted; stays in the worker.
    """

    digest: bytes
    rows: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where the data lies: a CSV file, a folder of them, or one sealed file with its key (32 bytes)."""

    path: Path
    key: bytes | None = field(default=None, repr=False)

    def tables(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Each table's file name, and its bytes in any pieces, by name.

        Raises:
            AppError, BlobError: no such data, or a sealed file that does not open.
        """
        if self.key is not None:
            with self.path.open("rb") as file:
                yield SEALED_NAME, open_data(DataHeader.read(file), self.key, file)
            return
        for path in _csv_files(self.path):
            with path.open("rb") as file:
                yield path.name, iter(lambda: file.read(_READ_BYTES), b"")


def sealed_header(path: Path) -> DataHeader | None:
    """The header of a sealed file; None where ``path`` is none.

    Raises:
        BlobError, WireError: it says that it is sealed, and its header does not hold.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if not is_sealed(file.read(64)):
            return None
        file.seek(0)
        return DataHeader.read(file)


def admit_dataset(source: Source, gate: Gate, *, into: Path, secret: bytes) -> DatasetCommitment:
    """Copy the rows that ``gate`` lets in, the contract's columns alone, into the empty folder ``into``.

    ``secret`` is 32 random bytes: without it, whoever has a guess at the data could test it against the commitment.

    Raises:
        ValueError: ``secret`` has another length, or ``into`` is not an empty folder.
        AppError: DATA_CONTRACT, DATA_VALUES: the first rule that does not hold. BlobError: a sealed file does not open.
    """
    if not into.is_dir() or any(into.iterdir()):
        raise ValueError("into: an empty folder expected")
    commitment = RowCommitment(gate.contract.columns, secret)
    for name, pieces in source.tables():
        with _table(into / name, gate.contract.columns) as write:
            for row in admitted(pieces, gate):
                write(row)
                commitment.add(row)
    gate.close()
    return DatasetCommitment(commitment.digest(), commitment.rows)


def admitted(pieces: Iterable[bytes], gate: Gate) -> Iterator[list[str]]:
    """The rows of one CSV table that ``gate`` lets in, the contract's columns alone.

    Raises:
        AppError: DATA_CONTRACT: no table of the contract's form.
    """
    rows = read_table(pieces)
    gate.begin(next(rows, []))
    for row in rows:
        taken = gate.take(row)
        if taken is not None:
            yield taken


def read_table(pieces: Iterable[bytes]) -> Iterator[list[str]]:
    """Header and rows of one CSV table in UTF-8, never more than a line of it in memory.

    Raises:
        AppError: DATA_CONTRACT: it cannot be read as such, or is too large.
    """
    try:
        yield from csv.reader(_lines(pieces), strict=True)
    except (OSError, UnicodeDecodeError, csv.Error):
        raise breach("a file cannot be read as CSV in UTF-8") from None


def _csv_files(source: Path) -> list[Path]:
    files = sorted(source.glob("*.csv")) if source.is_dir() else [source]
    if not 1 <= len(files) <= MAX_FILES or not all(file.is_file() for file in files):
        raise breach(f"a CSV file, or a folder with 1 to {MAX_FILES} files *.csv, expected")
    return files


@contextmanager
def _table(target: Path, columns: Sequence[str]) -> Iterator[Callable[[Sequence[str]], object]]:
    """What writes a row to the new file ``target``, whose header is ``columns``."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as copy:
        copy.write(csv_line(columns))
        yield lambda row: copy.write(csv_line(row))


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """The lines of a table, each bounded, and all of them together."""
    file = io.BufferedReader(_Pieces(pieces), _READ_BYTES)
    size_bytes = 0
    first = True
    while line := file.readline(MAX_LINE_BYTES + 1):
        size_bytes += len(line)
        if len(line) > MAX_LINE_BYTES or size_bytes > MAX_FILE_BYTES:
            raise breach("a line longer than 1 MiB, or a file larger than 8 GiB")
        yield line.decode("utf-8-sig" if first else "utf-8")  # spreadsheets write a byte order mark
        first = False


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the start of ``buffer``; 0 at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
