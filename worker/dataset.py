"""The member's data, held against the plan's contract before anybody hears of it. Trust zone: worker.

Only columns that the plan names reach the app: they are copied into a folder of their own, so that what was checked
and committed to is what the app reads, and a file that changes afterwards changes nothing. An error names a rule and
at most a column of the plan; it never quotes the data, nor the member's own column names.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trusted.documents.terms import DatasetContract
from trusted.errors import AppError, Reason
from trusted.wire import pack, sha256

MAX_FILES = 256
MAX_FILE_BYTES = 8 * 1024**3
MAX_LINE_BYTES = 1024 * 1024  # stops a file without line ends from filling the enclave's memory
SALT_BYTES = 16
LABEL = "cloister/dataset/v1"


@dataclass(frozen=True, slots=True)
class DatasetCommitment:
    """What a worker binds itself to at admission.

    Attributes:
        digest: SHA-256 of record ``cloister/dataset/v1``: salt, then the files' SHA-256 one after the other, by name.
        rows: how many rows the contract counted; stays in the worker.
    """

    digest: bytes
    rows: int


def admit_dataset(source: Path, contract: DatasetContract, *, into: Path, salt: bytes) -> DatasetCommitment:
    """Check ``source`` (a CSV file, or a folder of them), and copy the contract's columns into the new folder ``into``.

    ``salt`` is 16 random bytes: without it, whoever has a guess at the data could test it against the commitment.

    Raises:
        ValueError: ``salt`` has another length, or ``into`` exists.
        AppError: DATA_CONTRACT: no CSV there, a column missing or twice, a row of another width, too few rows.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"salt: {SALT_BYTES} bytes expected")
    if into.exists():
        raise ValueError("into: a folder that does not exist yet expected")
    files = _csv_files(source)
    into.mkdir(mode=0o700)
    digests, rows = [], 0
    for file in files:
        digest, counted = _copy_columns(file, contract.columns, into / file.name)
        digests.append(digest)
        rows += counted
    if rows < contract.min_rows:
        raise _breach("fewer rows than plan.dataset.min_rows")
    return DatasetCommitment(commit(digests, salt), rows)


def commit(file_digests: list[bytes], salt: bytes) -> bytes:
    """SHA-256 of record ``cloister/dataset/v1``: salt, digests of 32 bytes each one after the other."""
    return sha256(pack(LABEL, salt, b"".join(file_digests)))


def _breach(rule: str) -> AppError:
    return AppError(Reason.DATA_CONTRACT, f"data: {rule}")


def _csv_files(source: Path) -> list[Path]:
    files = sorted(source.glob("*.csv")) if source.is_dir() else [source]
    if not 1 <= len(files) <= MAX_FILES or not all(file.is_file() for file in files):
        raise _breach(f"a CSV file, or a folder with 1 to {MAX_FILES} files *.csv, expected")
    return files


def _copy_columns(source: Path, columns: tuple[str, ...], target: Path) -> tuple[bytes, int]:
    """Copy ``columns`` of one file; returns the SHA-256 of the *whole* source file and its number of rows."""
    digest = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    rows = 0
    try:
        with source.open("rb") as file, os.fdopen(descriptor, "w", encoding="utf-8", newline="") as copy:
            reader = csv.reader(_lines(file, digest), strict=True)
            writer = csv.writer(copy, lineterminator="\n")
            header = next(reader, [])
            places = _places(header, columns)
            writer.writerow(columns)
            for row in reader:
                if len(row) != len(header):
                    raise _breach("a row has more or fewer fields than the header")
                writer.writerow([row[place] for place in places])
                rows += 1
    except (OSError, UnicodeDecodeError, csv.Error):
        raise _breach("a file cannot be read as CSV in UTF-8") from None
    return digest.digest(), rows


def _places(header: list[str], columns: tuple[str, ...]) -> list[int]:
    for column in columns:
        if header.count(column) != 1:
            raise _breach(f"column {column!r} of plan.dataset.columns must be in each file once")
    return [header.index(column) for column in columns]


def _lines(file: BinaryIO, digest: hashlib._Hash) -> Iterator[str]:
    """The file's lines, each bounded, while ``digest`` takes in every byte of them."""
    size_bytes = 0
    first = True
    while line := file.readline(MAX_LINE_BYTES + 1):
        size_bytes += len(line)
        if len(line) > MAX_LINE_BYTES or size_bytes > MAX_FILE_BYTES:
            raise _breach("a line longer than 1 MiB, or a file larger than 8 GiB")
        digest.update(line)
        yield line.decode("utf-8-sig" if first else "utf-8")  # spreadsheets write a byte order mark
        first = False
