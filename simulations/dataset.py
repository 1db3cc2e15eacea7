"""Rows as named columns, before anybody has them. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations import readers

Rows = Mapping[str, NDArray[Any]]
"""Columns of one length by name; the first axis is the row."""

MAX_LABELS = 1000  # more are no classes but measurements, and pictures by label would show nothing


@dataclass(frozen=True, slots=True)
class Dataset:
    """All rows of a simulation. ``label`` names the column that partitions by label and label attacks mean."""

    columns: Rows
    label: str = ""

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"dataset: columns of one length expected, found {lengths}")
        if self.label and self.label not in self.columns:
            raise ValueError(f"dataset: no column {self.label!r} for the label; there are {', '.join(self.columns)}")

    @classmethod
    def from_csv(cls, path: Path | str, *, label: str = "", columns: Sequence[str] = ()) -> Dataset:
        """The table in one CSV file; of its ``columns`` these alone, where they are named.

        Raises:
            ValueError: no such file or column, no table, or one too large; the message says which, and what to do.
        """
        return cls(readers.read_csv(Path(path), columns), label)

    @classmethod
    def from_csvs(
        cls, paths: Sequence[Path | str], *, label: str = "", columns: Sequence[str] = (), source: str = "site"
    ) -> Dataset:
        """Tables of the same columns below each other; the new column ``source`` says which file a row is from.

        Raises:
            ValueError: as :meth:`from_csv`; or the files differ in their columns, or have one called ``source``.
        """
        return cls(readers.read_csvs([Path(path) for path in paths], columns, source), label)

    @classmethod
    def from_parquet(cls, path: Path | str, *, label: str = "", columns: Sequence[str] = ()) -> Dataset:
        """The table in one Parquet file, as :meth:`from_csv`."""
        return cls(readers.read_parquet(Path(path), columns), label)

    @classmethod
    def digits(cls) -> Dataset:
        """scikit-learn's 1797 digits: ``pixels``, float32[n, 64] from 0 to 1, and ``digit``, the label."""
        return cls(readers.read_digits(), "digit")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> NDArray[Any]:
        """The column ``name``.

        Raises:
            ValueError: there is none; the message lists what there is.
        """
        if name not in self.columns:
            raise ValueError(f"dataset: no column {name!r}; there are {', '.join(self.columns)}")
        return self.columns[name]

    def with_column(self, name: str, values: NDArray[Any]) -> Dataset:
        """The same with one more column, or another in the place of the one with this name."""
        return replace(self, columns={**self.columns, name: values})

    def labels(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The different labels, sorted, and each row's place among them.

        Raises:
            ValueError: no column is named as the label, a row has none, or there are more than 1000.
        """
        if not self.label:
            raise ValueError(f"dataset: no label is named: say label= with one of {', '.join(self.columns)}")
        found, places = np.unique(self.column(self.label), return_inverse=True)
        if len(found) > MAX_LABELS:
            raise ValueError(
                f"dataset: the label {self.label!r} has {len(found)} different values, more than {MAX_LABELS}: "
                f"cut it into classes first, with with_column"
            )
        require_values(self.label, found)
        return found, places.astype(np.int64)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """These rows, copied."""
        return {name: column[rows] for name, column in self.columns.items()}

    def only(self, which: NDArray[np.bool_]) -> Dataset:
        """The rows for which ``which``, bool[rows], is true.

        Raises:
            ValueError: another length, or no row is left.
        """
        if len(which) != len(self) or not which.any():
            raise ValueError(f"dataset: a choice of at least one of {len(self)} rows expected")
        return replace(self, columns={name: column[which] for name, column in self.columns.items()})

    def held_out(self, share: float, *, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Rows for the sites, and a ``share`` of all, drawn at random, that no site gets.

        Raises:
            ValueError: a share that leaves one of the two without rows.
        """
        count = round(share * len(self))
        if not 0 < count < len(self):
            raise ValueError(f"dataset: a share of {share} of {len(self)} rows leaves nothing on one side")
        order = np.random.default_rng(seed).permutation(len(self))
        return replace(self, columns=self.take(order[count:])), replace(self, columns=self.take(order[:count]))


def require_values(column: str, found: NDArray[Any]) -> None:
    """Every row has a value, as ``found``, the different values of a column, shows.

    Raises:
        ValueError: one of them is not-a-number or empty text.
    """
    if (found.dtype.kind == "f" and np.isnan(found).any()) or (found.dtype.kind in "US" and (found == "").any()):
        raise ValueError(f"dataset: rows without a value in {column!r}: leave them out with only(), or fill them in")
