"""The facade: it learns, it is the same twice, and what does not fit is told in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from simulations.behaviour import Behaviour
from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.result import Ending
from simulations.simulation import Simulation
from simulations.tasks.function import Function
from tests.simulations.linear import FUNCTION, INPUTS, dataset, partition, simulation, train
from trusted.errors import ProtocolError


def test_a_federation_learns():
    result = simulation(cohort=4).run()
    assert result.ending is Ending.COMPLETE
    assert [row.number for row in result.rounds] == [1, 2, 3, 4, 5]
    assert all(len(row.drawn) == len(row.counted) == 4 for row in result.rounds)
    assert result.rounds[-1].evaluated["accuracy"] > 0.9
    assert result.rounds[-1].reported["loss"] < result.rounds[0].reported["loss"]
    assert result.rounds[0].bytes_up > 4 * 4 * INPUTS


def same(one, other) -> bool:
    return one.model.tobytes() == other.model.tobytes() and [replace(row, wall_s={}) for row in one.rounds] == [
        replace(row, wall_s={}) for row in other.rounds
    ]


@pytest.mark.parametrize("engine", ["in-process", "pool"])
def test_the_same_seed_gives_the_same_bits_in_every_engine_and_another_seed_others(engine):
    told = {
        "privacy": {"mechanism": "member-clipping", "clip_norm": 1, "noise_multiplier": 1, "epsilon": 20, "delta": 1e-5}
    }
    for terms in ({}, {"aggregation": "median"}, told):
        first = simulation(cohort=4, **terms).run()
        assert same(first, simulation(cohort=4, engine=engine, **terms).run())
        assert not same(first, simulation(cohort=4, seed=1, **terms).run())


def test_rounds_are_told_as_they_end():
    heard = []
    result = simulation().run(heard.append)
    assert tuple(heard) == result.rounds


def test_settings_are_json_and_are_saved(tmp_path):
    made = simulation(behaviours=[Behaviour("away", "are away", ("site-0001",), attends=lambda number, rng: False)])
    made.save_settings(tmp_path / "settings.json")
    assert json.loads((tmp_path / "settings.json").read_text()) == made.settings == made.run().settings
    assert made.settings["behaviours"] == [{"name": "away", "says": "are away", "sites": ["site-0001"]}]


def test_thousands_of_sites_cost_what_their_rows_cost():
    rows = 10_000
    data = Dataset({"x": np.ones((rows, INPUTS)), "y": np.ones(rows, "f4")})
    parts = Partition(np.arange(rows), np.arange(rows + 1), tuple(f"site-{place:05}" for place in range(rows)))
    result = Simulation(FUNCTION, data, parts, rounds=2, cohort=20, engine="in-process").run()
    assert all(len(row.counted) == 20 for row in result.rounds)


def away(**changes):
    return Behaviour("away", "are away", **({"sites": 0.5} | changes))


WRONG = [
    ({"cohort": 11}, "cohort: 11 sites are to be drawn each round, but there are only 10"),
    ({"minimum": 11}, "minimum: 1 to 10 expected"),
    ({"rounds": 0}, "rounds: at least 1 expected"),
    ({"engine": "gpu"}, "engine: one of pool, in-process, ray expected, not 'gpu'"),
    ({"aggregation": "mode"}, "plan.aggregation.rule"),
    ({"aggregation": {"rule": "krum", "byzantine": 4}}, "plan.cohort.minimum: at least 11 expected"),
    ({"exchange": {"tensors": ["b"]}}, "exchange: no tensor 'b'; there are w"),
    ({"behaviours": [away(sites=("nowhere",))]}, "behaviour away: no site is called 'nowhere'"),
    ({"behaviours": [away(sites=1.5)]}, "behaviour away: a share of sites from 0 to 1 expected"),
    ({"behaviours": [away(), away()]}, "behaviours: two are called 'away'"),
    ({"privacy": {"mechanism": "member-clipping"}}, "plan.privacy"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_fit_is_told_in_one_sentence(changes, sentence):
    with pytest.raises((ValueError, ProtocolError)) as caught:
        simulation(**{"cohort": 10} | changes)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_partition_and_a_missing_column_are_told_in_one_sentence():
    with pytest.raises(ValueError, match="partition: rows from 0 to 999 expected, as the dataset has them"):
        Simulation(FUNCTION, dataset(), Partition.of([np.arange(10), np.array([1000])]))
    with pytest.raises(ValueError, match="partition: which site has which rows expected, not a list"):
        Simulation(FUNCTION, dataset(), [np.arange(10)])
    renamed = Dataset({"x": dataset().columns["x"], "label": dataset().columns["y"]})
    for engine in ("in-process", "pool"):
        made = Simulation(FUNCTION, renamed, partition(), engine=engine)
        with pytest.raises(ValueError, match="dataset: no column 'y'; there are x, label"):
            made.run()


def test_an_initial_model_that_no_layout_has_and_rows_that_nobody_judges_are_told():
    with pytest.raises(ValueError, match="initial: w is float16; one of float32, float64, int64 expected"):
        simulation(Function(train, {"w": np.zeros(INPUTS, "f2")}))
    with pytest.raises(ValueError, match="held_out: rows to evaluate by, but no function evaluates"):
        simulation(Function(train, {"w": np.zeros(INPUTS, "f4")}), held_out=dataset())
