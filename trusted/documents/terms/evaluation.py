"""``plan.evaluation``: how the final model is judged inside, and what of that may be told. Trust zone: every TEE.

Absent: nothing is evaluated at the end, and no model card is made. A worker counts its rows into tables of a size that
these terms fix (:mod:`trusted.tables`); the aggregator alone sees a site's tables, and tells what the bounds allow.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from trusted.documents.schema import read_line, rule, unique
from trusted.documents.terms.cohort import MAX_COHORT, Cohort
from trusted.documents.terms.dataset import MAX_ROWS, DatasetContract, read_columns
from trusted.wire import Fields

MAX_COUNTS = 1 << 14  # in one site's tables: 128 KiB as they travel, within one frame
_MAX_SUBGROUPS = 16
_MAX_CELLS = 32
_MAX_SHADOWS = 16
_MAX_VALUE = 64
_LARGEST = 1e15
OTHER = "other"


class EvaluationTask(Enum):
    """What kind of model is judged."""

    BINARY = "binary-classification"


@dataclass(frozen=True, slots=True)
class Label:
    """What is to be predicted: whether a row's ``column`` is at least ``at_least``."""

    column: str
    at_least: float

    @classmethod
    def read(cls, value: Any) -> Label:
        """``plan.evaluation.label``."""
        with Fields(value, "plan.evaluation.label") as fields:
            column = read_line(fields, "column", max_length=128)
            return cls(column, fields.number("at_least", low=-_LARGEST, high=_LARGEST))

    def to_json(self) -> dict[str, Any]:
        """``plan.evaluation.label``."""
        return {"column": self.column, "at_least": self.at_least}


@dataclass(frozen=True, slots=True)
class Subgroup:
    """A column whose rows are judged apart: by its ``values``, or by bands between ``edges``; what is neither, apart.

    Attributes:
        values: as the data spell them; two spellings of one number are the same value.
        edges: ascending; a band holds its lower edge and not its upper one.
    """

    column: str
    values: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """What the cells are called, the one for all other rows last."""
        if self.values:
            return (*self.values, OTHER)
        marks = [f"{edge:g}" for edge in self.edges]
        between = [f"{low} to under {high}" for low, high in itertools.pairwise(marks)]
        return (f"under {marks[0]}", *between, f"{marks[-1]} and over", OTHER)

    @classmethod
    def read(cls, value: Any) -> Subgroup:
        """One entry of ``plan.evaluation.subgroups``."""
        name = "plan.evaluation.subgroups"
        with Fields(value, name) as fields:
            column = read_line(fields, "column", max_length=128)
            by_value = fields.has("values")
            given = fields.items("values" if by_value else "edges", max_items=_MAX_CELLS)
            with Fields({str(place): one for place, one in enumerate(given)}, f"{name}.cells") as each:
                places = range(len(given))
                values = tuple(read_line(each, str(at), max_length=_MAX_VALUE) for at in places if by_value)
                edges = tuple(each.number(str(at), low=-_LARGEST, high=_LARGEST) for at in places if not by_value)
        if by_value:
            unique([_number(text) for text in values], f"{name}.values", low=1)
            rule(OTHER not in values, f"{name}.values", f"{OTHER!r} stands for every other value")
        else:
            ascending = all(low < high for low, high in itertools.pairwise(edges))
            rule(bool(edges) and ascending, f"{name}.edges", "ascending numbers expected")
        return cls(column, values, edges)

    def to_json(self) -> dict[str, Any]:
        """One entry of ``plan.evaluation.subgroups``."""
        return {"column": self.column} | ({"values": list(self.values)} if self.values else {"edges": list(self.edges)})

    def cell_of(self, text: str) -> int:
        """The place among :attr:`cells` of a row with ``text`` in this column."""
        found = _number(text)
        if self.values:
            known = [_number(value) for value in self.values]
            return known.index(found) if found in known else len(known)
        if isinstance(found, str):
            return len(self.edges) + 1
        return sum(found >= edge for edge in self.edges)


def _number(text: str) -> float | str:
    """The finite number that ``text`` spells, else ``text`` itself."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


@dataclass(frozen=True, slots=True)
class Audit:
    """The membership-inference audit: a loss threshold always; a shadow attack with ``shadows`` models (0: none).

    Each shadow is trained by the app itself, ``calls`` times in a row, on a random half of the site's rows.
    """

    shadows: int = 0
    calls: int = 1

    @classmethod
    def read(cls, value: Any) -> Audit:
        """``plan.evaluation.audit``."""
        with Fields(value, "plan.evaluation.audit") as fields:
            shadows = fields.integer("shadows", low=0, high=_MAX_SHADOWS)
            rule(shadows != 1, "plan.evaluation.audit.shadows", "0, or at least 2, expected")
            return cls(shadows, fields.integer("calls", low=1, high=1000))

    def to_json(self) -> dict[str, Any]:
        """``plan.evaluation.audit``."""
        return {"shadows": self.shadows, "calls": self.calls}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the final model is judged, and what may be told of it.

    Attributes:
        threshold: a row with this score or a higher one is predicted positive; the edge of a bin.
        bins: equal ones, into which scores from 0 to 1 are counted.
        subgroups: of columns of the dataset contract, each column once.
        min_cell: no statistic is told that stands on fewer positive or fewer negative rows, nor one from which any
            single site could subtract its own rows and be left with fewer.
        min_sites: nor one of fewer sites.
        digits: decimal places of every rate; ``count_base``: counts are rounded to a multiple of it.
        per_site: whether each site's own figures may be told, of all its rows together.
        audit: of membership inference, if there is to be one.
        unseen: columns of subgroups that the worker judges by and the app does not get to see.
    """

    task: EvaluationTask
    label: Label
    threshold: float
    bins: int
    subgroups: tuple[Subgroup, ...]
    min_cell: int
    min_sites: int
    digits: int
    count_base: int
    per_site: bool
    audit: Audit | None
    unseen: tuple[str, ...] = ()

    @classmethod
    def read(cls, value: Any) -> Evaluation:
        """``plan.evaluation``."""
        name = "plan.evaluation"
        with Fields(value, name) as fields:
            terms = cls(
                task=EvaluationTask(fields.choice("task", [task.value for task in EvaluationTask])),
                label=Label.read(fields.mapping("label")),
                threshold=fields.number("threshold", low=0.0, high=1.0),
                bins=fields.integer("bins", low=2, high=1000),
                subgroups=tuple(Subgroup.read(one) for one in fields.items("subgroups", max_items=_MAX_SUBGROUPS)),
                min_cell=fields.integer("min_cell", low=5, high=MAX_ROWS),
                min_sites=fields.integer("min_sites", low=2, high=MAX_COHORT),
                digits=fields.integer("digits", low=0, high=4),
                count_base=fields.integer("count_base", low=1, high=1000),
                per_site=fields.boolean("per_site"),
                audit=Audit.read(fields.mapping("audit")) if fields.has("audit") else None,
                unseen=read_columns(fields, "unseen", low=1) if fields.has("unseen") else (),
            )
        judged = {subgroup.column for subgroup in terms.subgroups} - {terms.label.column}
        rule(set(terms.unseen) <= judged, f"{name}.unseen", "columns of subgroups expected, and not the label's")
        unique([subgroup.column for subgroup in terms.subgroups], f"{name}.subgroups", low=0)
        edge = terms.threshold * terms.bins
        rule(abs(edge - round(edge)) < 1e-9, f"{name}.threshold", "the edge of a bin expected: a multiple of 1 / bins")
        rule(terms.counts <= MAX_COUNTS, f"{name}.bins", f"at most {MAX_COUNTS} counts in all tables together expected")
        return terms

    def check(self, dataset: DatasetContract, cohort: Cohort) -> None:
        """Refuse terms that the rest of the plan cannot meet.

        Raises:
            DocumentError: DOCUMENT_RULE.
        """
        columns = {self.label.column, *(subgroup.column for subgroup in self.subgroups)}
        known = columns <= set(dataset.columns)
        rule(known, "plan.evaluation", "columns of plan.dataset.columns expected, for the label and each subgroup")
        rule(self.min_sites <= len(cohort.members), "plan.evaluation.min_sites", "at most plan.cohort.members expected")

    @property
    def counts(self) -> int:
        """How many counts one site's tables hold, the audit's included."""
        cells = 1 + sum(len(subgroup.cells) for subgroup in self.subgroups)
        audits = 0 if self.audit is None else 2
        return 2 * self.bins * (cells + audits)

    @property
    def threshold_bin(self) -> int:
        """The first bin whose rows are predicted positive."""
        return round(self.threshold * self.bins)

    def to_json(self) -> dict[str, Any]:
        """``plan.evaluation``."""
        return {
            "task": self.task.value,
            "label": self.label.to_json(),
            "threshold": self.threshold,
            "bins": self.bins,
            "subgroups": [subgroup.to_json() for subgroup in self.subgroups],
            "min_cell": self.min_cell,
            "min_sites": self.min_sites,
            "digits": self.digits,
            "count_base": self.count_base,
            "per_site": self.per_site,
            **({} if self.audit is None else {"audit": self.audit.to_json()}),
            **({"unseen": list(self.unseen)} if self.unseen else {}),
        }
