"""Who counts, who is lost and why, what it costs: a round is the aggregator's, on virtual time."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.behaviour import Behaviour
from simulations.dataset import Dataset
from simulations.pace import Pace
from simulations.partition import Partition
from simulations.result import Ending
from simulations.simulation import Simulation
from simulations.tasks.function import Function
from tests.simulations.linear import partition, simulation
from trusted.blob import BlobHeader, BlobKind
from trusted.documents.terms import MetricRule
from trusted.encoding import Encoding
from trusted.errors import Reason

CLIPPING = {"mechanism": "member-clipping", "clip_norm": 1, "noise_multiplier": 4, "delta": 1e-5}
DEADLINES = {"round_s": 60, "lease_s": 20, "reattest_s": 10}


def behaves(**does) -> Behaviour:
    return Behaviour("others", "do otherwise", **({"sites": ("site-0001", "site-0002")} | does))


def rows_of(*behaviours: Behaviour, **changes):
    return simulation(behaviours=behaviours, deadlines=DEADLINES, **changes).run().rounds


def moves(*updates: float):
    """A function whose site ``i`` of one row each sends ``updates[i]``, and a simulation of it."""

    def train(arrays, rows, rng, config):
        return {"w": arrays["w"] + np.float32(rows["x"][0])}, {"num-examples": 1 + int(rows["n"][0])}

    count = len(updates)
    data = Dataset({"x": np.array(updates), "n": np.arange(count)})
    return Function(train, {"w": np.zeros(3, "f4")}), data


def fold_of(updates, **changes):
    trains, data = moves(*updates)
    parts = Partition.of([np.array([place]) for place in range(len(updates))])
    return Simulation(trains, data, parts, **({"rounds": 1, "engine": "in-process"} | changes)).run()


# --- who is there, and who answers ----------------------------------------------------------------------------------


def test_who_is_away_is_not_drawn():
    for row in rows_of(behaves(attends=lambda number, rng: number % 2 == 0)):
        assert row.present == (10 if row.number % 2 == 0 else 8)
        assert ("site-0001" in row.drawn) == (row.number % 2 == 0)


def test_who_is_silent_for_a_lease_is_waited_for_no_longer():
    row = rows_of(behaves(answers=lambda number, rng: False))[0]
    assert row.lost == {"site-0001": Reason.MEMBER_SILENT, "site-0002": Reason.MEMBER_SILENT}
    assert row.virtual_s == 20
    assert len(row.counted) == 8


def test_who_comes_after_the_deadline_does_not_count_and_who_comes_before_it_does():
    late = rows_of(behaves(slows=lambda seconds, size, rng: 60.0))[0]
    assert late.lost == {"site-0001": Reason.ROUND_DEADLINE, "site-0002": Reason.ROUND_DEADLINE}
    assert late.virtual_s == 60
    in_time = rows_of(behaves(slows=lambda seconds, size, rng: 59.9))[0]
    assert not in_time.lost
    assert in_time.virtual_s == pytest.approx(59.9)


def test_an_ordinary_round_lasts_as_long_as_its_slowest_site():
    pace = Pace(seconds_per_row=0.01, latency_s=1, down_bytes_per_s=1e9, up_bytes_per_s=1e9)
    assert rows_of(pace=pace)[0].virtual_s == pytest.approx(2 + 100 * 0.01, abs=1e-4)


def test_with_fewer_than_the_minimum_a_round_comes_to_nothing_and_three_of_them_end_the_run():
    result = simulation(
        behaviours=[Behaviour("most", "say nothing", 0.9, answers=lambda number, rng: False)],
        minimum=2,
        deadlines=DEADLINES,
    ).run()
    assert result.ending is Ending.ABANDONED
    assert [row.abandoned for row in result.rounds] == [Reason.COHORT_MINIMUM] * 3
    assert all(row.virtual_s == 60 and not row.counted for row in result.rounds)  # those away may still come
    assert not result.model.any()


def test_a_round_is_not_opened_while_too_few_are_there():
    away = Behaviour("most", "come late", 0.9, attends=lambda number, rng: number > 5)
    rows = rows_of(away, minimum=2)
    assert [row.drawn for row in rows[:5]] == [()] * 5
    assert all(row.virtual_s == 20 and row.abandoned is Reason.COHORT_MINIMUM for row in rows[:5])
    assert len(rows) == 10


# --- what counts ----------------------------------------------------------------------------------------------------


def test_updates_weigh_their_rows_and_no_site_more_than_the_plan_allows():
    assert fold_of([1, 2, 4]).model == pytest.approx((1 * 1 + 2 * 2 + 4 * 3) / 6)
    result = fold_of([1, 2, 4], aggregation={"rule": "weighted-mean", "max_weight": 2})
    assert result.rounds[0].lost == {"site-0002": Reason.WEIGHT}
    assert result.model == pytest.approx((1 * 1 + 2 * 2) / 3)


def test_a_site_may_claim_more_than_it_has_up_to_the_plans_bound():
    claims = Behaviour("liar", "claims rows", ("site-0000",), claims=lambda rows: 100)
    assert fold_of([1, 2, 4], behaviours=[claims]).model == pytest.approx((100 + 4 + 12) / 105)
    bounded = fold_of([1, 2, 4], behaviours=[claims], aggregation={"rule": "weighted-mean", "max_weight": 99})
    assert bounded.rounds[0].lost == {"site-0000": Reason.WEIGHT}


def test_an_update_that_is_not_finite_is_left_out_of_the_fold():
    def nan(sight):
        return [np.full(3, np.nan, "f4") for _ in sight.own]

    forger = Behaviour("nan", "send NaN", ("site-0000",), forges=nan)
    for rule in ("weighted-mean", "median", "geometric-median"):
        terms = {"rule": rule} | ({"iterations": 9, "smoothing": 1e-6} if rule == "geometric-median" else {})
        row = fold_of([1, 1, 1, 1], behaviours=[forger], aggregation=terms).rounds[0]
        assert row.lost == {"site-0000": Reason.NON_FINITE}
        assert len(row.counted) == 3


def test_forgers_see_their_own_updates_the_others_and_the_last_step():
    seen = []

    def forge(sight):
        seen.append(([u[0] for u in sight.own], [u[0] for u in sight.others], sight.step[0], sight.round))
        return [-10 * sum(sight.others) for _ in sight.own]

    forgers = Behaviour("two", "send the opposite", ("site-0000", "site-0002"), forges=forge)
    result = fold_of([1, 2, 4, 8], behaviours=[forgers], rounds=2)
    assert seen[0] == ([1, 4], [2, 8], 0, 1)
    assert seen[1][:2] == ([1, 4], [2, 8])
    assert seen[1][2] == pytest.approx((-100 * 1 + 2 * 2 - 100 * 3 + 8 * 4) / 10)
    assert len(result.rounds) == 2


def test_poisons_change_what_a_site_trains_on_and_nobody_else():
    poison = Behaviour(
        "poison", "trains on others", ("site-0001",), poisons=lambda rows, rng: {**rows, "x": -rows["x"]}
    )
    assert fold_of([1, 2, 4], behaviours=[poison]).model == pytest.approx((1 - 4 + 12) / 6)


def test_adding_a_behaviour_moves_no_dice_of_another():
    drops = Behaviour("drops", "drop out", 0.5, answers=lambda number, rng: rng.random() < 0.5)
    other = Behaviour("slow", "are slow", 0.5, slows=lambda seconds, size, rng: seconds + rng.random())
    alone, both = rows_of(drops), rows_of(other, drops)
    assert [row.lost for row in alone] == [row.lost for row in both]
    assert len({tuple(row.lost) for row in alone}) > 1


# --- the wire -------------------------------------------------------------------------------------------------------


def test_updates_and_models_arrive_as_their_encodings_leave_them():
    exact = fold_of([1 / 3, 1 / 3]).model
    for encoding, error in (("bfloat16", 2.0**-8), ("int8", 2.0**-8)):
        rounded = fold_of([1 / 3, 1 / 3], exchange={"update": encoding}).model
        assert 0 <= abs(rounded - exact).max() <= error / 3
    spelled = fold_of([1 / 3, 1 / 3], exchange={"update": "bfloat16"}).model
    assert spelled == pytest.approx(0.333984375)  # the nearest bfloat16

    def keep(arrays, rows, rng, config):
        return {"w": arrays["w"] * 0 + 1}, {}

    trains = Function(keep, {"w": np.full(3, 1 / 3, "f4")})
    data = moves(1, 1)[1]
    result = Simulation(
        trains, data, partition_of_two(), rounds=1, engine="in-process", exchange={"model": "bfloat16"}
    ).run()
    assert result.model == pytest.approx(1 / 3 + (1 - 0.333984375))  # the step is from the model that sites had


def partition_of_two():
    return Partition.of([np.array([0]), np.array([1])])


def test_named_tensors_travel_and_the_others_stay_as_they_were():
    def train(arrays, rows, rng, config):
        return {name: array + 1 for name, array in arrays.items()}, {}

    initial = {"a": np.zeros(2, "f4"), "b": np.full((2, 2), 5, "f4"), "c": np.zeros(1, "f4")}
    result = Simulation(
        Function(train, initial),
        moves(1, 1)[1],
        partition_of_two(),
        rounds=3,
        engine="in-process",
        exchange={"tensors": ["a", "c"]},
    ).run()
    assert result.model.tolist() == [3, 3, 5, 5, 5, 5, 3]
    whole = fold_of([1, 1]).rounds[0]
    assert result.rounds[0].bytes_up == whole.bytes_up  # three numbers travel, as there


def test_bytes_are_those_of_sealed_blobs():
    full, half = (fold_of([1, 1], exchange={"update": name}).rounds[0] for name in ("float32", "bfloat16"))
    for row, encoding in ((full, Encoding.FLOAT32), (half, Encoding.BFLOAT16)):
        header = BlobHeader(BlobKind.UPDATE, bytes(32), 1, "site-0000", bytes(32), 3, encoding)
        assert row.bytes_up == 2 * header.sealed_bytes
    assert full.bytes_down == half.bytes_down > 2 * 12


# --- privacy --------------------------------------------------------------------------------------------------------


def test_a_round_is_paid_for_and_the_run_ends_when_the_budget_is_spent():
    result = simulation(rounds=50, privacy=CLIPPING | {"epsilon": 3}).run()
    spent = [row.epsilon for row in result.rounds]
    assert result.ending is Ending.BUDGET
    assert 1 < len(spent) < 50
    assert spent == sorted(spent)
    assert spent[-1] <= 3


def test_all_count_alike_under_privacy_and_no_forger_moves_the_sum_by_more_than_the_clip():
    huge = Behaviour("huge", "send huge", ("site-0001",), forges=lambda sight: [sight.own[0] * 1e6])
    budget = CLIPPING | {"epsilon": 20, "noise_multiplier": 0.4, "delta": 1e-3}
    for behaviours in ([], [huge]):
        result = fold_of([0.1, 0.1, 0.1, 0.1] * 10, privacy=budget, behaviours=behaviours)
        assert abs(result.model - 0.1).max() < 0.08
        assert result.rounds[0].lost == {}


def test_noise_follows_from_the_seed():
    one, same, other = (fold_of([1] * 4, seed=seed, privacy=CLIPPING | {"epsilon": 20}).model for seed in (1, 1, 2))
    assert one.tobytes() == same.tobytes() != other.tobytes()


# --- what is told ---------------------------------------------------------------------------------------------------


def test_metrics_are_told_by_the_plans_list_where_there_is_one():
    rows = rows_of(metrics=[MetricRule("loss", 2, 1), MetricRule("auc", 2, 1)])
    assert rows[0].reported == {"loss": round(rows_of()[0].reported["loss"], 1)}


def test_models_are_evaluated_as_often_as_asked_and_always_at_the_end():
    assert [bool(row.evaluated) for row in rows_of(evaluate_every=2)] == [False, True, False, True, True]
    assert [bool(row.evaluated) for row in rows_of(evaluate_every=0)] == [False] * 4 + [True]
    assert partition().sizes.tolist() == [100] * 10
