"""Plans that have the model judged, and the tables that sites answer with."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.world import NOW, Net, World
from trusted.card import VerifiedCard, card_name, verify_card
from trusted.documents.terms import DatasetContract, Evaluation
from trusted.release import release_name, verify_release
from trusted.tables import Tables, bin_of, counted

TERMS = {
    "task": "binary-classification",
    "label": {"column": "visits", "at_least": 5},
    "threshold": 0.5,
    "bins": 100,
    "subgroups": [{"column": "sex", "values": ["0", "1"]}, {"column": "age", "edges": [18, 65]}],
    "min_cell": 10,
    "min_sites": 2,
    "digits": 3,
    "count_base": 5,
    "per_site": False,
    "audit": {"shadows": 0, "calls": 1},
}
COLUMNS = ("visits", "sex", "age")


def terms(**changes: Any) -> Evaluation:
    return Evaluation.read({**TERMS, **changes})


def world_of(root: Any, chip: Any, evaluation: Evaluation | None = None, **changes: Any) -> World:
    judged = {"evaluation": evaluation or terms(), "dataset": DatasetContract(1, COLUMNS)}
    return World(root, chip, plan_changes=judged | changes)


def tables_of(given: Evaluation, seed: int, *, rows: int = 400, shares: tuple[float, ...] = (0.5, 0.5)) -> Tables:
    """Tables of random rows: better scores for positives; the first subgroup in ``shares``, nobody in ``other``."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, rows)
    scores = 1 / (1 + np.exp(-rng.normal(1.5 * y - 0.75)))
    where, cells = bin_of(scores, given.bins), []
    for place, subgroup in enumerate(given.subgroups):
        named = len(subgroup.cells) - 1
        part = shares if place == 0 else [1 / named] * named
        of_rows = rng.choice(named, rows, p=part)
        kinds = range(len(subgroup.cells))
        cells.append(np.stack([counted(where[of_rows == at], y[of_rows == at], given.bins) for at in kinds]))
    audits: tuple[np.ndarray, ...] = ()
    if given.audit is not None:
        seen = rng.integers(0, 2, 2 * rows)
        seen[:rows], seen[rows:] = 0, 1
        loss = counted(bin_of(rng.random(2 * rows), given.bins), seen, given.bins)
        audits = loss, np.zeros_like(loss)
    return Tables(counted(where, y, given.bins), tuple(cells), audits)


def card_of(net: Net, world: World) -> VerifiedCard:
    plan = world.plan.digest
    release = verify_release(net.store.blobs[release_name(plan)], world.federation, NOW).release
    return verify_card(net.store.blobs[card_name(plan)], release)
