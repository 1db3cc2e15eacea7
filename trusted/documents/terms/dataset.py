"""``plan.dataset``: what each site's data must be. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trusted.documents.schema import read_line, unique
from trusted.wire import Fields

MAX_ROWS = 10**12


@dataclass(frozen=True, slots=True)
class DatasetContract:
    """What each site's data must be: at least ``min_rows`` rows, and these columns and no others."""

    min_rows: int
    columns: tuple[str, ...]

    @classmethod
    def read(cls, value: Any) -> DatasetContract:
        """``plan.dataset``."""
        with Fields(value, "plan.dataset") as fields:
            min_rows = fields.integer("min_rows", low=1, high=MAX_ROWS)
            return cls(min_rows, read_columns(fields, "columns", low=1))

    def to_json(self) -> dict[str, Any]:
        """``plan.dataset``."""
        return {"min_rows": self.min_rows, "columns": list(self.columns)}


def read_columns(fields: Fields, key: str, *, low: int) -> tuple[str, ...]:
    """At least ``low`` different column names of visible characters."""
    values = fields.items(key)
    with Fields({str(place): value for place, value in enumerate(values)}, fields.path(key)) as entries:
        columns = tuple(read_line(entries, str(place), max_length=128) for place in range(len(values)))
    unique(columns, fields.path(key), low=low)
    return columns
