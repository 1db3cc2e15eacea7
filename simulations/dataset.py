"""Rows as named columns, before anybody has them. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = Mapping[str, NDArray[Any]]
"""Columns of one length by name; the first axis is the row."""


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

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """These rows, copied."""
        return {name: column[rows] for name, column in self.columns.items()}
