"""Sites as a column of the data names them: the hospital, the branch. Trust zone: the developer's machine."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from simulations.dataset import Dataset, require_values
from simulations.partition import Partition

MAX_SITES = 100_000
_NO_ID = re.compile(r"[^a-z0-9]+")
_LONGEST = 63  # as a plan has it


def by_column(dataset: Dataset, column: str, *, least: int = 1) -> Partition:
    """A site for every value of ``column``, named by it; numbers have the column's name before them (``inst-3``).

    Raises:
        ValueError: no such column, rows without a value, values that make the same name, more than 100,000 of them, or
            a site with fewer than ``least`` rows; the message says which.
    """
    found, owner = np.unique(dataset.column(column), return_inverse=True)
    require_values(column, found)
    if len(found) > MAX_SITES:
        raise ValueError(f"partition by_column: {column!r} has {len(found)} values, more than {MAX_SITES} sites")
    names = tuple(_name(column, value) for value in found.tolist())
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"partition by_column: two values of {column!r} are both called {twice!r}: rename one of them")
    partition = Partition.by_owner(owner, len(found), names)
    if (partition.sizes < least).any():
        few = int(np.argmin(partition.sizes))
        raise ValueError(
            f"partition by_column: {names[few]} has {partition.sizes[few]} rows, fewer than {least}: "
            f"leave its rows out, or ask for fewer at least"
        )
    return partition


def _name(column: str, value: Any) -> str:
    """The value as a plan spells a member: lower-case letters, digits and hyphens."""
    text = str(value) if isinstance(value, str) else f"{column}-{value:g}" if isinstance(value, float) else ""
    made = _NO_ID.sub("-", (text or f"{column}-{value}").lower()).strip("-")[:_LONGEST]
    if not made:
        raise ValueError(f"partition by_column: {value!r} in {column!r} makes no name: letters or digits expected")
    return made
