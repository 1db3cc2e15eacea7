"""With admission a simulation goes through the whole protocol, and gives the very bits that it gives without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulations.aggregators import admitted
from simulations.aggregators.admitted import Admitted
from simulations.behaviour import Behaviour
from simulations.behaviours import (
    against_mean,
    dropouts,
    idle,
    joining,
    label_flip,
    leaving,
    nan,
    outages,
    overweight,
    sign_flip,
    slow_links,
    stragglers,
)
from simulations.dataset import Dataset
from simulations.hosts.released import verified
from simulations.partition import Partition
from simulations.result import Ending, Result, RoundRow
from simulations.simulation import Simulation
from tests.enclave.folds import ADAM
from tests.simulations.linear import FUNCTION, INPUTS, dataset, partition, simulation
from trusted.documents.terms import MetricRule
from trusted.errors import Reason

SHORT = {"round_s": 60, "lease_s": 20, "reattest_s": 10}
CLIPPING = {"mechanism": "member-clipping", "clip_norm": 1, "noise_multiplier": 4, "delta": 1e-5}
NAMES = partition().names
BEHAVIOURS: dict[str, tuple[Behaviour, ...]] = {
    "nothing": (),
    "dropouts": (dropouts(0.5, chance=0.5),),
    "outages": outages({"north": NAMES[:3], "south": NAMES[3:5]}, chance=0.4),
    "stragglers": (stragglers(0.3, times=1000), dropouts(0.2, chance=0.5)),
    "too late": (stragglers(0.3, times=1e6),),
    "slow links": (slow_links(0.5, up_mbit_s=0.001, down_mbit_s=0.001),),
    "joining and leaving": (joining(0.5, first_round=4), leaving(0.2, last_round=2)),
    "poisoned": (label_flip(0.2, label="y", values=[0.0, 1.0]),),
    "forged": (sign_flip(0.2), against_mean(("site-0003", "site-0004"), times=2.0)),
    "idle": (idle(0.2),),
    "not finite": (nan(0.2),),
    "too heavy": (overweight(0.2, times=1e30),),
}


def told(row: RoundRow) -> RoundRow:
    """All but how long it took here."""
    return replace(row, wall_s={})


def both(**terms: Any) -> tuple[Result, Result]:
    """A simulation without and with admission."""
    return simulation(**terms).run(), simulation(admission=True, **terms).run()


def assert_same(plain: Result, sealed: Result) -> None:
    assert [told(row) for row in sealed.rounds] == [told(row) for row in plain.rounds]
    assert sealed.model.tobytes() == plain.model.tobytes()
    assert sealed.ending is plain.ending


# --- the same as without ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_whatever_sites_do_rows_and_model_are_the_bits_of_those_without_admission(name: str) -> None:
    terms: dict[str, Any] = {"deadlines": SHORT, "minimum": 3, "behaviours": BEHAVIOURS[name]}
    plain, sealed = both(**terms)
    assert_same(plain, sealed)
    assert np.any(sealed.model)


@pytest.mark.parametrize(
    "terms",
    [
        {"aggregation": "median"},
        {"aggregation": {"rule": "weighted-mean", "server": ADAM}},
        {"exchange": {"model": "bfloat16", "update": "int8"}},
        {"cohort": 4},
        {"cohort": 4, "seed": 3, "engine": "pool"},
        {"metrics": [MetricRule("loss", 2, 3)]},
        {"evaluate_every": 0},
    ],
    ids=["median", "adam", "encoded", "drawn", "pool", "metrics", "not evaluated"],
)
def test_under_whatever_terms_they_are_the_same(terms: dict[str, Any]) -> None:
    assert_same(*both(**terms))


def test_a_round_that_too_few_came_to_open_is_a_row_and_moves_no_later_draw() -> None:
    away = Behaviour("most", "come late", 0.9, attends=lambda number, rng: number > 3)
    plain, sealed = both(behaviours=[away], minimum=2, cohort=4, deadlines=SHORT)
    assert [row.drawn for row in sealed.rounds[:3]] == [()] * 3
    assert_same(plain, sealed)


def test_three_rounds_that_come_to_nothing_end_both() -> None:
    silent = Behaviour("most", "say nothing", 0.9, answers=lambda number, rng: False)
    plain, sealed = both(behaviours=[silent], minimum=2, deadlines=SHORT)
    assert sealed.ending is Ending.ABANDONED
    assert_same(plain, sealed)


def test_a_budget_ends_both_after_as_many_rounds_with_noise_of_one_size() -> None:
    terms = {"privacy": CLIPPING | {"epsilon": 2}, "rounds": 30}
    plain, sealed = both(**terms)
    assert sealed.ending is plain.ending is Ending.BUDGET
    assert [row.epsilon for row in sealed.rounds] == [row.epsilon for row in plain.rounds]
    deviation = np.sqrt(len(plain.rounds)) * CLIPPING["clip_norm"] * CLIPPING["noise_multiplier"] / len(NAMES)
    difference = (sealed.model - plain.model) / (deviation * np.sqrt(2))
    assert 0.5 < np.sqrt(np.mean(difference**2)) < 1.6  # of INPUTS draws
    assert len(difference) == INPUTS


def test_a_budget_that_pays_for_no_round_ends_both_before_the_first() -> None:
    plain, sealed = both(privacy=CLIPPING | {"epsilon": 0.02})
    assert sealed.ending is plain.ending is Ending.BUDGET
    assert sealed.rounds == plain.rounds == ()


def test_a_run_begun_again_gives_the_same_again() -> None:
    one = simulation(admission=True, rounds=2, cohort=4)
    assert one.run().model.tobytes() == one.run().model.tobytes()


# --- what it goes through --------------------------------------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Admitted]:
    """Every aggregator that is made, to be looked into afterwards."""
    made: list[Admitted] = []
    begin = Admitted.__init__

    def kept(self: Admitted, *given: Any) -> None:
        made.append(self)
        begin(self, *given)

    monkeypatch.setattr(Admitted, "__init__", kept)
    return made


def test_everybody_is_attested_and_admitted_and_the_release_names_who_counts(runs: list[Admitted]) -> None:
    result = simulation(admission=True, rounds=2, cohort=4).run()
    net = runs[0]._net
    assert [event["member"] for event in net.outcomes("admitted")] == list(NAMES)
    assert {event["assurance"] for event in net.outcomes("admitted")} == {"none"}
    assert len(net.outcomes("released")) == 1
    named = verified(net.world, net.store, net.now).release.contributions
    assert [(number, tuple(members)) for number, members in named] == [
        (row.number, row.counted) for row in result.rounds
    ]
    assert result.admission_s is not None
    assert result.admission_s > 0
    assert simulation(rounds=1).run().admission_s is None


def test_updates_lie_sealed_at_the_host_and_no_model_does_in_the_clear(runs: list[Admitted]) -> None:
    result = simulation(admission=True, rounds=1).run()
    blobs = runs[0]._net.store.blobs.values()
    assert all(result.model.tobytes()[:16] not in blob for blob in blobs)


def test_sites_prove_themselves_anew_while_virtual_time_passes(runs: list[Admitted]) -> None:
    simulation(admission=True, rounds=2, deadlines=SHORT, behaviours=[stragglers(0.2, times=1000)]).run()
    net = runs[0]._net
    assert len(net.outcomes("attested")) > 2 * len(net.outcomes("admitted"))


def test_a_site_that_would_train_from_other_bits_than_it_opened_is_told_of() -> None:
    trainer = admitted._Trained(np.zeros(3, "f4"), None)
    with pytest.raises(RuntimeError, match="another model than the engine trained from"):
        trainer.train(np.ones(3, "f4"), 1, timeout_s=1)


def test_a_site_that_is_refused_ends_the_simulation_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.hosts.consortium.WORKER_MEASUREMENT", b"\xbc" * 48)
    with pytest.raises(RuntimeError, match=r"site-0000 has no session any more: .* MEASUREMENT"):
        simulation(admission=True, rounds=1).run()


# --- what it does not do ---------------------------------------------------------------------------------------------


def named(*names: str) -> Partition:
    return Partition.of(np.array_split(np.arange(100), len(names)), names)


@pytest.mark.parametrize(
    ("given", "terms", "sentence"),
    [
        (partition(1000), {"cohort": 1}, "admission: no plan can be so: plan.cohort.minimum"),
        (named("a", "Köln"), {}, "admission: no member can be called 'Köln'; lower-case letters, digits and hyphens"),
        (partition(1), {}, "admission: no plan can be so: plan.cohort.members"),
    ],
    ids=["one at a time", "names", "one site"],
)
def test_what_no_plan_can_say_is_refused_in_one_sentence_when_it_is_written(
    given: Partition, terms: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        Simulation(FUNCTION, dataset(), given, admission=True, engine="in-process", **terms)


def test_more_sites_than_a_plan_has_members_are_refused() -> None:
    rows = Dataset({"x": np.zeros((1025, INPUTS)), "y": np.zeros(1025, "f4")}, "y")
    parts = Partition.of(np.array_split(np.arange(1025), 1025))
    with pytest.raises(ValueError, match="a plan has at most 1,024 members, and here are 1,025 sites"):
        Simulation(FUNCTION, rows, parts, cohort=10, admission=True)


def test_a_reason_of_each_loss_is_the_aggregators_own() -> None:
    rows = simulation(admission=True, rounds=1, behaviours=[nan(("site-0003",))]).run().rounds
    assert rows[0].lost == {"site-0003": Reason.NON_FINITE}
