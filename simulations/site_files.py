"""Each site's rows as a deployed site's app finds them: CSV files in a folder of its own. Trust zone: the developer's
machine.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from simulations import readers
from simulations.dataset import Rows
from simulations.site_data import SiteData
from trusted.documents.terms import DatasetContract
from worker.contract import Gate
from worker.csv_line import csv_line
from worker.dataset import SEALED_NAME, Source, admit_dataset
from worker.strata import without_columns


class SiteFiles(Protocol):
    """Where the data of a site lies."""

    def folder(self, site: int) -> Path:
        """A folder with CSV files, there for as long as this object is."""


@dataclass(frozen=True, slots=True)
class WrittenFiles:
    """A site's rows, poisons included, are written when they are first asked for: one CSV file for each site."""

    data: SiteData
    root: Path

    def folder(self, site: int) -> Path:
        """Made by whoever asks first."""
        folder = self.root / self.data.partition.names[site]
        if not folder.is_dir():
            folder.mkdir()
            write_csv(self.data.rows(site), folder / SEALED_NAME)
        return folder


@dataclass(frozen=True, slots=True)
class AdmittedFiles:
    """Data of members, admitted under a plan's contract by the worker's own code.

    A poisoned site's is written anew: it poisons all that it has, before its worker hides columns from the app.
    """

    admitted: AdmittedData
    data: SiteData
    root: Path

    def folder(self, site: int) -> Path:
        """What the worker admitted, to the byte, unless the site is poisoned."""
        admitted = self.admitted
        if site not in self.data.poisons:
            return admitted.folders[site]
        folder = self.root / self.data.partition.names[site]
        if not folder.is_dir():
            whole = folder.with_name(f"{folder.name}.whole")
            whole.mkdir()
            for file in sorted(admitted.wholes[site].glob("*.csv")):
                write_csv(self.data.poisoned(site, readers.read_csv(file)), whole / file.name)
            if admitted.unseen:
                without_columns(whole, admitted.unseen, folder)
            else:
                whole.rename(folder)
        return folder


@dataclass(frozen=True, slots=True)
class AdmittedData:
    """What members' workers would admit: folders and a number of rows for each, in the order of names.

    ``folders`` are what the app gets to see, without the columns ``unseen``, of ``wholes``.
    """

    names: tuple[str, ...]
    wholes: tuple[Path, ...]
    folders: tuple[Path, ...]
    rows: tuple[int, ...]
    unseen: tuple[str, ...]
    kept: tempfile.TemporaryDirectory[str] = field(repr=False)

    @classmethod
    def of(cls, sources: Mapping[str, Path], contract: DatasetContract, unseen: tuple[str, ...] = ()) -> AdmittedData:
        """Copy what ``contract`` lets in of each member's data; the app does not get to see the columns ``unseen``.

        Raises:
            AppError: whose data the contract does not let in, and why.
        """
        kept = tempfile.TemporaryDirectory(prefix="cloister-simulation-")
        names, wholes, rows = tuple(sorted(sources)), [], []
        for name in names:
            whole = Path(kept.name) / name
            whole.mkdir()
            gate = Gate(contract, datetime.now(UTC))
            rows.append(admit_dataset(Source(sources[name]), gate, into=whole, secret=bytes(32)).rows)
            wholes.append(whole)
        folders = [without_columns(whole, unseen, whole.with_name(f"{whole.name}.seen")) for whole in wholes]
        return cls(names, tuple(wholes), tuple(folders), tuple(rows), unseen, kept)

    @property
    def starts(self) -> NDArray[np.int64]:
        """As a partition has them."""
        return np.array([0, *accumulate(self.rows)], dtype=np.int64)


class Scratch:
    """A folder that is gone with its object, in the process that made it."""

    def __init__(self) -> None:
        self._kept = tempfile.TemporaryDirectory(prefix="cloister-simulation-", ignore_cleanup_errors=True)
        self.path = Path(self._kept.name)

    def made(self, name: str) -> Path:
        """An empty folder in it."""
        folder = self.path / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


def write_csv(rows: Rows, path: Path) -> None:
    """One CSV table, numbers at their shortest: what is read from it is the same numbers.

    Raises:
        ValueError: a column of more than one dimension, which no table has.
    """
    for name, column in rows.items():
        if column.ndim != 1:
            raise ValueError(f"dataset: column {name!r} has {column.ndim} dimensions; apps read tables")
    texts = [_texts(column) for column in rows.values()]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(csv_line(list(rows)))
        file.writelines(csv_line(row) for row in zip(*texts, strict=True))


def _texts(column: NDArray[Any]) -> list[str]:
    if column.dtype.kind == "f":  # not a number is an empty field; whole numbers as tables have them
        numbers = column.tolist() if column.dtype == np.float64 else [float(str(value)) for value in column]
        return ["" if value != value else str(int(value)) if value.is_integer() else repr(value) for value in numbers]
    if column.dtype.kind == "b":
        return ["true" if value else "false" for value in column.tolist()]
    return [str(value) for value in column.tolist()]
