"""A mean that is added up while its updates come gives what one gives that is folded when all are there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from simulations.aggregators.summed import Summed
from simulations.aggregators.unsealed import Unsealed
from simulations.behaviour import Behaviour
from simulations.engines.in_process import InProcess
from simulations.engines.pool import Pool
from simulations.result import Ending
from simulations.rounds import Rounds
from simulations.tasks.function import Function
from tests.simulations.linear import simulation
from tests.simulations.test_rounds import CLIPPING, DEADLINES
from trusted.errors import Reason

OTHERS = ("site-0001", "site-0004")


def behaves(**does) -> Behaviour:
    return Behaviour("others", "do otherwise", **({"sites": OTHERS} | does))


MOST = np.float32(3e38)


def _apart(arrays, rows, rng, config):
    """Some sites end so far from the model that the way there is no float32."""
    far = abs(rows["x"][0, 0]) < 0.5
    return {"w": arrays["w"] * np.float32(-1 if far else 0.999)}, {}


APART = Function(_apart, {"w": np.full(700, MOST, "f4")})
ALL_APART = Function(lambda arrays, rows, rng, config: ({"w": -arrays["w"]}, {}), {"w": np.full(700, MOST, "f4")})
CASES = {
    "plain": {},
    "drawn": {"cohort": 6},
    "late": {"behaviours": [behaves(slows=lambda seconds, size, rng: 55 + 10 * rng.random())]},
    "silent": {"behaviours": [behaves(answers=lambda number, rng: rng.random() < 0.5)]},
    "away": {"behaviours": [behaves(attends=lambda number, rng: rng.random() < 0.5)]},
    "claims": {"behaviours": [behaves(claims=lambda rows: 3 * rows)]},
    "claims too much": {
        "behaviours": [behaves(claims=lambda rows: 3 * rows)],
        "aggregation": {"rule": "weighted-mean", "max_weight": 200},
    },
    "too few": {"behaviours": [behaves(sites=0.9, answers=lambda number, rng: number % 2 == 0)], "minimum": 5},
    "bfloat16": {"exchange": {"model": "bfloat16", "update": "bfloat16"}},
    "int8": {"exchange": {"update": "int8"}},
    "adam": {
        "aggregation": {
            "rule": "weighted-mean",
            "server": {"optimizer": "adam", "learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
        }
    },
    "not finite": {"trains": APART},
    "none finite": {"trains": ALL_APART},
}


def told(result):
    return result.model.tobytes(), result.ending, [replace(row, wall_s={}) for row in result.rounds]


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_updates_that_are_added_as_they_come_give_the_bits_and_the_rows_of_those_that_are_kept(changes, monkeypatch):
    trains = {"trains": changes["trains"]} if "trains" in changes else {}
    given = {"deadlines": DEADLINES} | {name: value for name, value in changes.items() if name != "trains"}
    made = simulation(**trains, **given)
    assert not Unsealed.holds_all(made._setting())
    added = told(made.run())
    monkeypatch.setattr(Summed, "suits", staticmethod(lambda setting: False))
    assert told(simulation(**trains, **given).run()) == added


def test_what_is_not_finite_is_left_out_of_a_sum_and_with_nobody_left_a_round_comes_to_nothing():
    rows = simulation(APART).run().rounds
    assert {reason for row in rows for reason in row.lost.values()} == {Reason.NON_FINITE}
    assert all(row.counted and not set(row.counted) & set(row.lost) for row in rows)
    assert simulation(ALL_APART).run().ending is Ending.ABANDONED


@dataclass(frozen=True, slots=True)
class Asked(InProcess):
    """Remembers whether it was to hold all updates of a round."""

    held: list[bool] = field(default_factory=list)

    def open(self, task, *, most_jobs, holds_all):
        self.held.append(holds_all)
        return InProcess.open(self, task, most_jobs=most_jobs, holds_all=holds_all)


@pytest.mark.parametrize(
    ("changes", "holds_all"),
    [({}, False), ({"aggregation": "median"}, True), ({"admission": True}, True)],
    ids=["sum", "rule", "admission"],
)
def test_an_engine_is_told_whether_updates_are_kept(changes, holds_all):
    engine = Asked()
    assert simulation(sites=3, rounds=1, engine=engine, **changes).run().rounds[0].counted
    assert engine.held == [holds_all]


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": "median"},
        {"privacy": CLIPPING | {"epsilon": 3}},
        {"behaviours": [behaves(forges=lambda sight: sight.own)]},
    ],
    ids=["rule", "noise", "forgers"],
)
def test_what_looks_at_all_updates_at_once_has_them_kept(changes):
    made = simulation(**changes)
    assert Unsealed.holds_all(made._setting())
    assert made.run().rounds[0].counted


def test_a_pool_with_room_for_few_gives_the_bits_of_one_process():
    alone, few = (simulation(engine=engine, cohort=9).run().model for engine in ("in-process", Pool(2, window_bytes=0)))
    assert alone.tobytes() == few.tobytes()


def test_updates_out_of_order_are_refused(monkeypatch):
    """It cannot happen while cohorts are sorted: if it does, no model comes of it."""
    in_order = Rounds._answers
    monkeypatch.setattr(
        Rounds,
        "_answers",
        lambda self, *asked: reversed([replace(one, update=one.update.copy()) for one in in_order(self, *asked)]),
    )
    with pytest.raises(RuntimeError, match="in the order of member ids"):
        simulation().run()
