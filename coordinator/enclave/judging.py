"""What a model card says from count tables: overall, by subgroup, by site, and the audit. Trust zone: aggregator TEE.

What is told stands on the sum over sites; :mod:`coordinator.enclave.cells` says what may be. A cell that is withheld
says so and nothing more: whether it was too small itself, or would have told of one that is, would be telling as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator.enclave.cells import Bounds, groups, rounded, told_cells
from coordinator.enclave.scoring import Auc, Confusion, calibration_error, mean_score
from trusted.documents.terms import Evaluation
from trusted.documents.terms.evaluation import OTHER
from trusted.errors import Reason
from trusted.tables import POSITIVE, Counts, Tables

WITHHELD = "withheld"
AUDITS = ("loss_threshold", "shadow")
_CALIBRATION_GROUPS = 10
_GAPS = ("auc", "sensitivity", "specificity", "predicted_positive", "calibration_error")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judging:
    """Tells of ``tables``, by member, what ``terms`` allow."""

    terms: Evaluation
    tables: Mapping[str, Tables]

    def overall(self) -> Json:
        """All held-out rows of all sites."""
        return self._part("all", [table.scores for table in self._sites])

    def subgroups(self) -> list[Json]:
        """Each column of the plan: its cells, and how far they lie apart."""
        return [self._subgroup(place) for place in range(len(self.terms.subgroups))]

    def by_site(self) -> list[Json]:
        """Each site's rows together, where the plan tells that; it is the one thing told of a single site."""
        if not self.terms.per_site:
            return []
        names = sorted(self.tables)
        alone = Bounds(self.terms.min_cell, 1, from_insiders=False)
        cells = [[table.scores] for table in self._sites]
        return self._cells(names, cells, alone)

    def audit(self, not_run: Mapping[str, Mapping[str, Reason]]) -> Json:
        """Both attacks of the audit; ``not_run`` says by attack and member why it did not."""
        found: Json = {}
        for place, name in enumerate(AUDITS):
            ran = [table.audits[place] for table in self._sites if table.audits and table.audits[place].any()]
            why = sorted({reason.code for reason in not_run.get(name, {}).values()})
            if not ran:
                found[name] = {"not_run": why}
            else:
                found[name] = self._attack(ran) | ({"not_run_at_some_sites": why} if why else {})
        return found

    @property
    def _sites(self) -> list[Tables]:
        return [self.tables[member] for member in sorted(self.tables)]

    @property
    def _bounds(self) -> Bounds:
        return Bounds(self.terms.min_cell, self.terms.min_sites)

    def _subgroup(self, place: int) -> Json:
        subgroup = self.terms.subgroups[place]
        by_site = [table.cells[place] for table in self._sites]
        cells = [[cells[at] for cells in by_site] for at in range(len(subgroup.cells))]
        if not any(table.any() for table in cells[-1]):
            cells.pop()  # every row has one of the named values: nobody is described by an empty rest
        told = self._cells(subgroup.cells[: len(cells)], cells, self._bounds)
        return {"column": subgroup.column, "cells": told, "gaps": _gaps(told)}

    def _cells(self, names: Any, cells: list[list[Counts]], bounds: Bounds) -> list[Json]:
        """``cells``: of each its table at each site."""
        rows = _stack(cells, lambda table: table.sum(axis=0))
        told = told_cells(rows, bounds)
        confusions = _stack(cells, lambda table: Confusion.of(table, self.terms.threshold_bin).counts)
        detailed = told_cells(confusions, bounds, hidden=frozenset(range(len(cells))) - told)
        return [
            self._figures(name, _sum(tables), detailed=at in detailed) if at in told else {"cell": name, WITHHELD: True}
            for at, (name, tables) in enumerate(zip(names, cells, strict=True))
        ]

    def _part(self, name: str, tables: list[Counts]) -> Json:
        found = self._cells([name], [tables], self._bounds)[0] if tables else {"cell": name, WITHHELD: True}
        if WITHHELD not in found:
            found["calibration"] = self._calibration(tables)
        return found

    def _figures(self, name: str, table: Counts, *, detailed: bool) -> Json:
        digits, base = self.terms.digits, self.terms.count_base
        rows, positive = int(table.sum()), int(table[:, POSITIVE].sum())
        figures: Json = {
            "cell": name,
            "rows": rounded(rows, base),
            "positive_rows": rounded(positive, base),
            "observed_rate": round(positive / rows, digits),
            "mean_score": round(mean_score(table), digits),
            "calibration_error": round(calibration_error(table), digits),
            **Auc.of(table).to_json(digits),
        }
        rates = Confusion.of(table, self.terms.threshold_bin).rates(digits) if detailed else WITHHELD
        return figures | {"at_threshold": rates}

    def _calibration(self, tables: list[Counts]) -> list[Json]:
        digits, base, bins = self.terms.digits, self.terms.count_base, self.terms.bins
        table = _sum(tables)
        told: list[Json] = []
        for group in groups(np.stack(tables, axis=1), self._bounds, wanted=_CALIBRATION_GROUPS):
            part = np.zeros_like(table)
            part[group] = table[group]
            rows = int(part.sum())
            told.append(
                {
                    "from": round(group.start / bins, 4),
                    "to": round(group.stop / bins, 4),
                    "rows": rounded(rows, base),
                    "mean_score": round(mean_score(part), digits),
                    "observed_rate": round(int(part[:, POSITIVE].sum()) / rows, digits),
                }
            )
        return told

    def _attack(self, ran: list[Counts]) -> Json:
        digits = self.terms.digits
        if not self._bounds.allow(np.stack([table.sum(axis=0) for table in ran])):
            return {WITHHELD: True}
        table = _sum(ran)
        rates = np.cumsum(table[::-1], axis=0) / table.sum(axis=0)
        advantage = max(0.0, float((rates[:, 1] - rates[:, 0]).max()))
        found = Auc.of(table)
        return found.to_json(digits) | {
            "standard_error": round(found.standard_error, digits),
            "advantage": round(advantage, digits),
            "sites": len(ran),
        }


def _stack(cells: list[list[Counts]], counts: Any) -> Counts:
    return np.array([[counts(table) for table in tables] for tables in cells], dtype=np.int64)


def _sum(tables: list[Counts]) -> Counts:
    return np.asarray(np.sum(tables, axis=0), dtype=np.int64)


def _gaps(cells: list[Json]) -> Json:
    """How far the told cells lie apart, of the figures as they are told: it tells nothing more."""
    named = [cell for cell in cells if cell["cell"] != OTHER]
    found: Json = {}
    for name in _GAPS:
        values = {cell["cell"]: _figure(cell, name) for cell in named}
        known = {cell: value for cell, value in values.items() if value is not None}
        if len(known) >= 2:
            lowest, highest = min(known, key=lambda cell: known[cell]), max(known, key=lambda cell: known[cell])
            gap = round(known[highest] - known[lowest], 6)
            found[name] = {"gap": gap, "lowest": lowest, "highest": highest}
    return found


def _figure(cell: Json, name: str) -> float | None:
    at_threshold = cell.get("at_threshold")
    given = cell.get(name, at_threshold.get(name) if isinstance(at_threshold, dict) else None)
    return None if given is None else float(given)
