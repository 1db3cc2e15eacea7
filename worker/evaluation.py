"""Judging the final model at one site: the app scores rows, the worker counts them into tables. Trust zone: worker.

Nothing of a single row leaves: labels and subgroups are looked up here, and what is sent are counts of a fixed size,
which the aggregator alone opens. Which rows were held out is the app's word: its bundle is what the members approved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import randbits
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trusted.documents.terms import Evaluation
from trusted.errors import AppError, Reason
from trusted.tables import Tables, bin_of, counted
from trusted.wire import sha256
from worker.rows import RowScores, kept_rows
from worker.strata import UNLABELLED, Strata
from worker.trainer import Judged, Vector

Progress = Callable[[str, int], None]
_CLIP = 1e-7  # float32 scores of 0 and 1 stand for something less than certain
_SPREAD = 3.0  # squeezes logits of confidence into bins: fine where models are unsure, not lost where they are sure
_SHARE = 0.8  # of the time that the audit may use up; the rest is for what cannot be foreseen


class Judges(Protocol):
    """Has the app judge a model, or train and judge a shadow: the trainer process, or a test's own."""

    def judge(self, model: Vector, round: int, timeout_s: float) -> Judged:
        """The app's metrics and, where it offers them, scores by row."""

    def shadow(self, initial: Vector, seed: int, calls: int, timeout_s: float) -> RowScores:
        """Scores of all rows by a model that the app trained from ``initial`` on the half that ``seed`` keeps."""


@dataclass(slots=True)
class Evaluator:
    """Judges models by the plan's terms. ``allowed`` are the metrics that may leave, ``timeout_s`` is for all of it."""

    terms: Evaluation
    strata: Strata
    trainer: Judges
    allowed: frozenset[str]
    timeout_s: float
    _last: tuple[bytes, dict[str, Any]] | None = field(default=None, repr=False)

    @property
    def trains_shadows(self) -> bool:
        """Whether the audit needs the model that training began with."""
        return self.terms.audit is not None and self.terms.audit.shadows > 0

    def evaluate(self, model: Vector, number: int, initial: Vector | None, progress: Progress) -> dict[str, Any]:
        """The ``evaluated`` document for ``model``; asked again for the same one, the same document.

        Raises:
            AppError: the app failed, or did not finish in time.
        """
        digest = sha256(number.to_bytes(8, "big") + model.tobytes())
        if self._last is None or self._last[0] != digest:
            self._last = digest, self._evaluate(model, number, initial, progress)
        return self._last[1]

    def _evaluate(self, model: Vector, number: int, initial: Vector | None, progress: Progress) -> dict[str, Any]:
        ends = time.monotonic() + self.timeout_s
        judged = self.trainer.judge(model, number, self.timeout_s)
        metrics = {name: value for name, value in judged.metrics.items() if name in self.allowed}
        found: dict[str, Any] = {"type": "evaluated", "round": number, "rows": judged.num_examples, "metrics": metrics}
        if judged.rows is None:
            return found | {"tables": None, "reasons": {"scores": int(Reason.APP_ROWS)}}
        progress("evaluate", 10)
        labelled = _Labelled.of(judged.rows, self.strata)
        tables = self._tables(labelled)
        reasons: Mapping[str, Reason] = {}
        if self.terms.audit is not None:
            audits, reasons = self._audits(labelled, initial, ends, progress)
            tables = Tables(tables.scores, tables.cells, audits)
        return found | {"tables": tables.encode().hex(), "reasons": {name: int(why) for name, why in reasons.items()}}

    def _tables(self, all_rows: _Labelled) -> Tables:
        held, bins = all_rows.where(all_rows.held_out), self.terms.bins
        where = bin_of(held.scores, bins)
        cells = []
        for place, subgroup in enumerate(self.terms.subgroups):
            of_rows = self.strata.cells[place][held.rows]
            among = [of_rows == cell for cell in range(len(subgroup.cells))]
            cells.append(np.stack([counted(where[mask], held.labels[mask], bins) for mask in among]))
        audits = () if self.terms.audit is None else (np.zeros((bins, 2), dtype=np.int64),) * 2
        return Tables(counted(where, held.labels, bins), tuple(cells), audits)

    def _audits(
        self, all_rows: _Labelled, initial: Vector | None, ends: float, progress: Progress
    ) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], Mapping[str, Reason]]:
        """Both tables of the audit, all zero where an attack did not run, and why it did not."""
        bins = self.terms.bins
        empty = np.zeros((bins, 2), dtype=np.int64)
        if all_rows.held_out.all() or not all_rows.held_out.any():
            return (empty, empty), dict.fromkeys(("loss_threshold", "shadow"), Reason.APP_ROWS)
        members = (~all_rows.held_out).astype(np.int64)
        logits = all_rows.confidence()
        loss = counted(bin_of(_squeezed(logits / _SPREAD), bins), members, bins)
        try:
            outside = self._shadows(all_rows, initial, ends, progress)
        except AppError as error:
            return (loss, empty), {"shadow": error.reason}
        known = np.isfinite(outside)
        harder = logits[known] - outside[known]
        return (loss, counted(bin_of(_squeezed(harder), bins), members[known], bins)), {}

    def _shadows(
        self, all_rows: _Labelled, initial: Vector | None, ends: float, progress: Progress
    ) -> NDArray[np.float64]:
        """Of each row the mean logit of confidence by the shadows that never saw it, NaN where all of them did.

        Raises:
            AppError: AUDIT_SHADOWS, AUDIT_INITIAL, APP_TIMEOUT: there are no two shadows.
        """
        audit = self.terms.audit
        if audit is None or not audit.shadows:
            raise AppError(Reason.AUDIT_SHADOWS, "audit: the plan asks for no shadow model")
        if initial is None:
            raise AppError(Reason.AUDIT_INITIAL, "audit: this worker was not there in round 1")
        total, count = np.zeros(self.strata.rows), np.zeros(self.strata.rows)
        begun, trained = time.monotonic(), 0
        for place in range(audit.shadows):
            left, each = ends - time.monotonic(), (time.monotonic() - begun) / max(1, trained)
            if left < (1 - _SHARE) * self.timeout_s or each > left:
                break
            seed = randbits(53)
            scored = _Labelled.of(self.trainer.shadow(initial, seed, audit.calls, left), self.strata)
            unseen = ~kept_rows(seed, self.strata.rows)[scored.rows]
            np.add.at(total, scored.rows[unseen], scored.confidence()[unseen])
            np.add.at(count, scored.rows[unseen], 1)
            trained += 1
            progress("evaluate", 10 + 90 * (place + 1) // audit.shadows)
        if trained < 2:
            raise AppError(Reason.APP_TIMEOUT, "audit: no time for two shadow models")
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(count > 0, total / count, np.nan)[all_rows.rows], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Labelled:
    """Scored rows that have a label: ``scores`` float64, ``labels`` int64 of 0 and 1."""

    rows: NDArray[np.uint32]
    scores: NDArray[np.float64]
    held_out: NDArray[np.bool_]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, given: RowScores, strata: Strata) -> _Labelled:
        labels = strata.labels[given.rows]
        known = labels != UNLABELLED
        scores = given.scores[known].astype(np.float64)
        return cls(given.rows[known], scores, given.held_out[known], labels[known].astype(np.int64))

    def where(self, mask: NDArray[np.bool_]) -> _Labelled:
        return _Labelled(self.rows[mask], self.scores[mask], self.held_out[mask], self.labels[mask])

    def confidence(self) -> NDArray[np.float64]:
        """The logit of the chance that the model gives to each row's true label; falls as the row's loss grows."""
        true = np.clip(np.where(self.labels == 1, self.scores, 1 - self.scores), _CLIP, 1 - _CLIP)
        return np.asarray(np.log(true) - np.log1p(-true), dtype=np.float64)


def _squeezed(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float64)
