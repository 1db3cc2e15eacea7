"""The label and the subgroups of each admitted row, looked up by the worker and not by the app. Trust zone: worker.

A row is named by its place: rows counted from 0 over all files of the admitted data in the order of their names, the
header lines left out. The app sees the same files in the same order, and answers with places alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trusted.documents.terms import Evaluation
from trusted.errors import AppError, Reason
from worker.csv_line import csv_line

UNLABELLED = 2


@dataclass(frozen=True, slots=True)
class Strata:
    """Of each admitted row: ``labels`` uint8[rows], 0, 1 or UNLABELLED; ``cells`` uint8[subgroups, rows]."""

    labels: NDArray[np.uint8] = field(repr=False)
    cells: NDArray[np.uint8] = field(repr=False)

    @property
    def rows(self) -> int:
        """How many rows were admitted."""
        return len(self.labels)

    @classmethod
    def read(cls, data: Path, terms: Evaluation) -> Strata:
        """Of the admitted copy in the folder ``data``.

        A row whose label is no number is UNLABELLED and judged by nobody.

        Raises:
            AppError: DATA_CONTRACT: the copy cannot be read.
        """
        labels, cells = bytearray(), [bytearray() for _ in terms.subgroups]
        known: list[dict[str, int]] = [{} for _ in terms.subgroups]
        for row in rows_of(data):
            labels.append(_label(row[terms.label.column], terms.label.at_least))
            for subgroup, column, memory in zip(terms.subgroups, cells, known, strict=True):
                text = row[subgroup.column]
                if text not in memory and len(memory) < 1 << 16:  # a column of many different numbers stays bounded
                    memory[text] = subgroup.cell_of(text)
                column.append(memory[text] if text in memory else subgroup.cell_of(text))
        found = np.array([np.frombuffer(column, np.uint8) for column in cells], dtype=np.uint8)
        return cls(np.frombuffer(labels, np.uint8), found.reshape(len(cells), len(labels)))


def _label(text: str, at_least: float) -> int:
    try:
        number = float(text)
    except ValueError:
        return UNLABELLED
    return UNLABELLED if np.isnan(number) else int(number >= at_least)


def rows_of(data: Path) -> Iterator[dict[str, str]]:
    """Every row of the admitted data, in the order by which a row is named."""
    try:
        for file in sorted(data.glob("*.csv")):
            with file.open(newline="", encoding="utf-8") as lines:
                yield from csv.DictReader(lines, strict=True)
    except (OSError, UnicodeDecodeError, csv.Error):
        raise AppError(Reason.DATA_CONTRACT, "data: the admitted copy cannot be read") from None


def write_part(data: Path, target: Path, chosen: NDArray[np.bool_]) -> None:
    """Write the rows of ``data`` that are ``chosen``, bool[rows], into the new folder ``target``, files as there.

    Raises:
        AppError: AUDIT_SHADOWS: the copy cannot be read, or what the trainer may write (64 MiB a file) is too little.
    """
    target.mkdir(mode=0o700)
    place = 0
    try:
        for file in sorted(data.glob("*.csv")):
            with file.open(newline="", encoding="utf-8") as lines, (target / file.name).open("w", newline="") as part:
                reader = csv.reader(lines, strict=True)
                part.write(csv_line(next(reader)))
                for row in reader:
                    if chosen[place]:
                        part.write(csv_line(row))
                    place += 1
    except (OSError, UnicodeDecodeError, csv.Error, IndexError):
        raise AppError(Reason.AUDIT_SHADOWS, "audit: half of the data cannot be written for a shadow") from None


def without_columns(data: Path, unseen: tuple[str, ...], target: Path) -> Path:
    """A folder with the rows of ``data`` without the columns ``unseen``: ``data`` itself where there are none.

    ``target`` may exist, empty.

    Raises:
        AppError: DATA_CONTRACT: the copy cannot be read.
    """
    if not unseen:
        return data
    target.mkdir(mode=0o700, exist_ok=True)
    try:
        for file in sorted(data.glob("*.csv")):
            with file.open(newline="", encoding="utf-8") as lines, (target / file.name).open("w", newline="") as copy:
                reader = csv.reader(lines, strict=True)
                header = next(reader)
                kept = [place for place, column in enumerate(header) if column not in unseen]
                copy.write(csv_line([header[place] for place in kept]))
                copy.writelines(csv_line([row[place] for place in kept]) for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error):
        raise AppError(Reason.DATA_CONTRACT, "data: the admitted copy cannot be read") from None
    return target
