"""``plan.metrics``: which metrics may leave, and how coarse. Trust zone: every TEE."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from trusted.documents.schema import matching
from trusted.documents.terms.cohort import MAX_COHORT
from trusted.documents.terms.dataset import MAX_ROWS
from trusted.wire import Fields

_METRIC = re.compile(r"[a-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class MetricRule:
    """A metric that may leave: averaged over at least ``min_sites`` sites, rounded to ``digits`` decimal places.

    Attributes:
        min_rows: a site's report counts only if that many rows stand behind it, by the site's own word (the weight of
            its update); 0: any report counts.
    """

    name: str
    min_sites: int
    digits: int
    min_rows: int = 0

    @classmethod
    def read(cls, value: Any) -> MetricRule:
        """One entry of ``plan.metrics``."""
        with Fields(value, "plan.metrics") as fields:
            name = matching(fields.text("name"), _METRIC, fields.path("name"))
            min_sites = fields.integer("min_sites", low=2, high=MAX_COHORT)
            digits = fields.integer("digits", low=0, high=6)
            min_rows = fields.integer("min_rows", low=1, high=MAX_ROWS) if fields.has("min_rows") else 0
            return cls(name, min_sites, digits, min_rows)

    def to_json(self) -> dict[str, Any]:
        """One entry of ``plan.metrics``."""
        rows = {"min_rows": self.min_rows} if self.min_rows else {}
        return {"name": self.name, "min_sites": self.min_sites, "digits": self.digits, **rows}
