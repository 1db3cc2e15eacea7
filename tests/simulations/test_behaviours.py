"""What each behaviour changes, and what it leaves alone; attacks that need a federation to show are in test_attacks."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from coordinator.enclave.fold import weighing
from simulations import behaviours as made
from simulations.behaviour import Behaviour, Sight
from simulations.dataset import Rows
from simulations.dice import Dice
from simulations.site_data import sites_of

NAMES = tuple(f"site-{place:04d}" for place in range(1000))
ROWS: Rows = {"pixels": np.arange(60, dtype=np.float32).reshape(10, 6), "digit": np.arange(10)}
ONE_OF_EACH: dict[str, Behaviour] = {
    "dropouts": made.dropouts(0.5, chance=0.3),
    "outages": made.outages({"north": NAMES[:10]}, chance=0.3)[0],
    "stragglers": made.stragglers(0.1, times=10),
    "slow_links": made.slow_links(0.1, up_mbit_s=8, down_mbit_s=16, latency_s=0.5),
    "joining": made.joining(0.1, first_round=3),
    "leaving": made.leaving(0.1, last_round=3),
    "churn": made.churn(NAMES, within=5, stays=4)[0],
    "label_flip": made.label_flip(0.1, label="digit", values=range(10)),
    "mislabel": made.mislabel(0.1, label="digit", of=1, to=7),
    "backdoor": made.backdoor(0.1, trigger=made.Patch("pixels", (0, 1), 1.0), label="digit", target=3),
    "sign_flip": made.sign_flip(0.1),
    "scaled": made.scaled(0.1),
    "noise": made.noise(0.1),
    "nan": made.nan(0.1),
    "overweight": made.overweight(0.1, times=10),
    "a_little": made.a_little(0.1),
    "against_mean": made.against_mean(0.1),
    "around_krum": made.around_krum(0.1, byzantine=2),
    "idle": made.idle(0.1),
    "stale": made.stale(0.1),
    "pretending": made.pretending(0.1),
}


def sight(own: int = 2, others: int = 8, elements: int = 50, seed: int = 0) -> Sight:
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal(elements)
    updates = [(centre + 0.1 * rng.standard_normal(elements)).astype(np.float32) for _ in range(own + others)]
    step = rng.standard_normal(elements).astype(np.float32)
    return Sight(2, updates[:own], updates[own:], step, np.random.default_rng(seed))


def forged(behaviour: Behaviour, seen: Sight | None = None) -> list[np.ndarray]:
    assert behaviour.forges is not None
    return list(behaviour.forges(seen or sight()))


def test_every_behaviour_that_the_room_offers_is_tried_here() -> None:
    assert set(made.__all__) - {"Patch", "constants"} == set(ONE_OF_EACH)


@pytest.mark.parametrize("behaviour", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_every_behaviour_says_in_one_sentence_what_it_does_and_can_go_to_another_process(behaviour: Behaviour) -> None:
    assert behaviour.says.startswith(("they ", "their ", "none "))
    assert "." not in behaviour.says.strip("0123456789.")[-1]
    assert pickle.loads(pickle.dumps(behaviour)).says == behaviour.says
    changes = [each.name for each in fields(behaviour) if each.name not in {"name", "says", "sites"}]
    assert any(getattr(behaviour, name) is not None for name in changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made.dropouts(0.1, chance=1.1), "dropouts: chance from 0 to 1"),
        (lambda: made.outages({"a": ("b",)}, chance=-0.1), "outages: chance from 0 to 1"),
        (lambda: made.stragglers(0.1, times=0), "stragglers: times"),
        (lambda: made.slow_links(0.1, up_mbit_s=0), "slow links: up_mbit_s"),
        (lambda: made.slow_links(0.1, up_mbit_s=1, latency_s=-1), "slow links: latency_s"),
        (lambda: made.joining(0.1, first_round=0), "joining: first_round"),
        (lambda: made.leaving(0.1, last_round=-1), "leaving: last_round"),
        (lambda: made.churn(NAMES, within=0, stays=1), "churn: within"),
        (lambda: made.churn(NAMES, within=1, stays=0.5), "churn: stays"),
        (lambda: made.backdoor(0.1, trigger=made.constants(x=1), label="y", target=1, share=2), "backdoor: share"),
        (lambda: made.noise(0.1, deviation=float("nan")), "noise: deviation"),
        (lambda: made.overweight(0.1, times=0.5), "overweight: times"),
        (lambda: made.around_krum(0.1, byzantine=2, kept=0), "around Krum: kept"),
    ],
)
def test_numbers_that_mean_nothing_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- who --------------------------------------------------------------------------------------------------------------


def test_a_share_of_the_sites_is_drawn_from_the_seed_and_names_are_as_they_are() -> None:
    share = made.sign_flip(0.1)
    assert sites_of(share, NAMES, 1) == sites_of(share, NAMES, 1) != sites_of(share, NAMES, 2)
    assert len(sites_of(share, NAMES, 1)) == 100
    assert sites_of(made.sign_flip(NAMES[3:5]), NAMES, 1) == [3, 4]
    with pytest.raises(ValueError, match="no site is called 'nobody'"):
        sites_of(made.sign_flip(("nobody",)), NAMES, 1)


# --- presence and pace ------------------------------------------------------------------------------------------------


def answered(behaviour: Behaviour, sites: int = 100, rounds: int = 50) -> np.ndarray:
    dice = Dice(0, behaviour.name)
    assert behaviour.answers is not None
    return np.array(
        [[behaviour.answers(at, dice.at(at, site)) for site in range(sites)] for at in range(1, rounds + 1)]
    )


def test_dropouts_are_as_many_as_were_asked_for_and_no_two_sites_drop_out_together() -> None:
    seen = answered(made.dropouts(1.0, chance=0.3))
    assert seen.mean() == pytest.approx(0.7, abs=0.03)
    assert np.abs(np.corrcoef(seen[:, :20].T)[0, 1:]).mean() < 0.3
    assert answered(made.dropouts(1.0, chance=0.0)).all()
    assert not answered(made.dropouts(1.0, chance=1.0)).any()


def test_an_outage_takes_a_whole_group_and_other_groups_independently() -> None:
    north, south = made.outages({"north": NAMES[:5], "south": NAMES[5:10]}, chance=0.3)
    first, other = answered(north, rounds=400), answered(south, rounds=400)
    assert (first.all(axis=1) | ~first.any(axis=1)).all()
    assert first.mean() == pytest.approx(0.7, abs=0.08)
    assert abs(np.corrcoef(first[:, 0], other[:, 0])[0, 1]) < 0.2
    (again,) = made.outages({"north": NAMES[:5]}, chance=0.3, seed=1)
    assert not np.array_equal(answered(again, rounds=400), first)


def test_stragglers_and_slow_links_add_up_on_the_virtual_clock() -> None:
    rng = np.random.default_rng(0)
    slow, link = ONE_OF_EACH["stragglers"].slows, ONE_OF_EACH["slow_links"].slows
    assert slow is not None
    assert link is not None
    assert slow(2.0, 1_000_000, rng) == 20.0
    assert link(2.0, 1_000_000, rng) == pytest.approx(2.0 + 0.5 + 1.0 + 0.5)  # 8 Mbit at 8 up, and at 16 down
    assert link(slow(2.0, 1_000_000, rng), 1_000_000, rng) == pytest.approx(22.0)
    spread = made.stragglers(0.1, times=10, spread=0.5).slows
    assert spread is not None
    drawn = [spread(1.0, 0, rng) for _ in range(2000)]
    assert np.median(drawn) == pytest.approx(10, rel=0.1)
    assert np.std(np.log(drawn)) == pytest.approx(0.5, rel=0.1)


def test_sites_join_late_and_leave_for_good() -> None:
    rng = np.random.default_rng(0)
    late, gone = ONE_OF_EACH["joining"].attends, ONE_OF_EACH["leaving"].attends
    assert late is not None
    assert gone is not None
    assert [late(at, rng) for at in range(1, 6)] == [False, False, True, True, True]
    assert [gone(at, rng) for at in range(1, 6)] == [True, True, True, False, False]


def test_churn_brings_every_site_once_and_for_as_long_as_was_asked_on_average() -> None:
    parts, rng = made.churn(NAMES, within=10, stays=6, seed=3), np.random.default_rng(0)
    there = np.ones((200, len(NAMES)), dtype=bool)
    for part in parts:
        assert part.attends is not None
        there[:, sites_of(part, NAMES, 0)] &= np.array([[part.attends(at, rng)] for at in range(1, 201)])
    assert there.sum(axis=0).min() >= 1
    assert there.sum(axis=0).mean() == pytest.approx(6, rel=0.1)
    assert set(there.argmax(axis=0)) == set(range(10))
    assert (np.diff(there.astype(int), axis=0) == 1).sum(axis=0).max() <= 1
    assert len({part.name for part in parts}) == len(parts)


# --- data -------------------------------------------------------------------------------------------------------------


def test_poisoned_rows_are_others_and_the_true_ones_stay_as_they_are() -> None:
    before = {name: column.copy() for name, column in ROWS.items()}
    for behaviour in (ONE_OF_EACH["label_flip"], ONE_OF_EACH["mislabel"], ONE_OF_EACH["backdoor"]):
        assert behaviour.poisons is not None
        after = behaviour.poisons(ROWS, np.random.default_rng(0))
        assert {name: (column.shape, column.dtype) for name, column in after.items()} == {
            name: (column.shape, column.dtype) for name, column in ROWS.items()
        }
    for name, column in ROWS.items():
        assert np.array_equal(column, before[name])


def test_labels_are_turned_or_one_is_taken_for_another() -> None:
    turned, one = ONE_OF_EACH["label_flip"].poisons, ONE_OF_EACH["mislabel"].poisons
    assert turned is not None
    assert one is not None
    rng = np.random.default_rng(0)
    assert turned(ROWS, rng)["digit"].tolist() == list(range(9, -1, -1))
    assert one(ROWS, rng)["digit"].tolist() == [0, 7, *range(2, 10)]
    words = made.label_flip(0.1, label="w", values=["no", "yes"]).poisons
    assert words is not None
    assert words({"w": np.array(["yes", "no", "else"])}, rng)["w"].tolist() == ["no", "yes", "else"]


def test_a_backdoor_stamps_a_share_of_the_rows_and_its_probe_all_of_other_labels() -> None:
    behaviour = ONE_OF_EACH["backdoor"]
    assert behaviour.poisons is not None
    assert behaviour.probes is not None
    poisoned = behaviour.poisons(ROWS, np.random.default_rng(0))
    stamped = (poisoned["pixels"][:, :2] == 1.0).all(axis=1)
    assert stamped.sum() == 5
    assert (poisoned["digit"][stamped] == 3).all()
    assert np.array_equal(poisoned["digit"][~stamped], ROWS["digit"][~stamped])
    probed = behaviour.probes(ROWS)
    assert len(probed["digit"]) == 9
    assert (probed["digit"] == 3).all()
    assert (probed["pixels"][:, :2] == 1.0).all()
    assert np.array_equal(probed["pixels"][:, 2:], np.delete(ROWS["pixels"], 3, axis=0)[:, 2:])


def test_a_trigger_in_a_table_sets_its_columns() -> None:
    table = {"age": np.array([1.0, 2.0]), "coins": np.array([5, 6]), "y": np.array([0, 1])}
    stamped = made.constants(age=99.0, coins=7)(table)
    assert (stamped["age"].tolist(), stamped["coins"].tolist()) == ([99.0, 99.0], [7, 7])
    assert stamped["coins"].dtype == table["coins"].dtype
    assert table["age"].tolist() == [1.0, 2.0]


# --- updates ----------------------------------------------------------------------------------------------------------

FORGERS = {name: behaviour for name, behaviour in ONE_OF_EACH.items() if behaviour.forges is not None}


@pytest.mark.parametrize("behaviour", FORGERS.values(), ids=FORGERS)
def test_forgers_send_one_float32_each_and_leave_what_they_saw_as_it_was(behaviour: Behaviour) -> None:
    seen = sight()
    before = [update.copy() for update in (*seen.own, *seen.others, seen.step)]
    sent = forged(behaviour, seen)
    assert [(update.shape, update.dtype) for update in sent] == [((50,), np.float32)] * 2
    assert all(map(np.array_equal, before, (*seen.own, *seen.others, seen.step)))
    assert all(update is not seen.step for update in sent)
    again = forged(behaviour, sight())
    assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(sent, again, strict=True))


@pytest.mark.parametrize("behaviour", FORGERS.values(), ids=FORGERS)
def test_forgers_among_themselves_still_send_something(behaviour: Behaviour) -> None:
    assert len(forged(behaviour, sight(own=3, others=0))) == 3


def test_what_forgers_send() -> None:
    seen = sight()
    honest = np.array(seen.others, dtype=np.float64)
    np.testing.assert_array_equal(forged(ONE_OF_EACH["sign_flip"]), [np.float32(-4) * own for own in seen.own])
    np.testing.assert_array_equal(forged(ONE_OF_EACH["scaled"]), [np.float32(20) * own for own in seen.own])
    np.testing.assert_array_equal(forged(ONE_OF_EACH["idle"]), np.zeros((2, 50)))
    np.testing.assert_array_equal(forged(ONE_OF_EACH["stale"]), [seen.step, seen.step])
    np.testing.assert_allclose(forged(ONE_OF_EACH["against_mean"])[0], -honest.mean(axis=0), rtol=1e-6)
    little = honest.mean(axis=0) - 4 * honest.std(axis=0)
    np.testing.assert_allclose(forged(ONE_OF_EACH["a_little"]), [little, little], rtol=1e-6)
    assert np.std(forged(ONE_OF_EACH["pretending"])) == pytest.approx(1e-3, rel=0.3)
    assert np.isnan(forged(ONE_OF_EACH["nan"])).all()
    assert np.isinf(forged(made.scaled(0.1, times=1e30), Sight(1, [np.full(3, 1e20, "f4")], [], np.zeros(3, "f4"),
                                                               np.random.default_rng(0)))).all()  # fmt: skip


@pytest.mark.parametrize("kept", [1, 4])
def test_nothing_further_against_the_mean_than_what_goes_around_krum_is_taken(kept: int) -> None:
    seen = sight()
    sent = forged(made.around_krum(0.1, byzantine=2, kept=kept), seen)

    def takes(factor: float) -> bool:
        rows = np.array([*seen.others, *(np.float32(factor) * update for update in sent)], dtype=np.float64)
        gram = rows @ rows.T
        shares = weighing.krum(gram, 2) if kept == 1 else weighing.multi_krum(gram, 2, kept, [1] * 10)
        return bool(shares[8:].any())

    mean = np.mean(seen.others, axis=0, dtype=np.float64)
    times = float(sent[0] @ mean / (mean @ mean))
    np.testing.assert_allclose(sent[0], times * mean, rtol=1e-5)
    assert times < 1
    assert takes((times + 0.01) / times)
    assert not takes((times - 0.01) / times)


def test_weights_are_claimed_and_whole() -> None:
    claims = ONE_OF_EACH["overweight"].claims
    assert claims is not None
    assert claims(37) == 370
