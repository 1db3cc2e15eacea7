"""The robustness table: attacks that hurt where nothing stands against them, folded by the aggregator's own code."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.robustness import command
from benchmarks.robustness.attacks import ATTACKS
from benchmarks.robustness.command import RULES, Federation, bare_accuracy, final_accuracy
from benchmarks.robustness.digits import ELEMENTS, Task, initial_model, trained
from trusted.documents.terms import Rule

FOLDED = {rule.value for rule in Rule if rule is not Rule.SERVER_APP}  # that one is folded by the app's own code

ROUNDS = 15


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.split(command.SITES, 0)


@pytest.fixture(scope="module")
def undisturbed(task: Task) -> float:
    return bare_accuracy(Federation(task, ATTACKS[0], 0), ROUNDS)


def test_sites_differ_and_share_no_row_with_each_other_or_the_test(task: Task) -> None:
    assert sum(map(len, task.sites)) + len(task.test) == 1797
    rows = [row.tobytes() for site in (*task.sites, task.test) for row in site.pixels]
    assert len(set(rows)) == 1797
    shares = np.array([np.bincount(site.digits, minlength=10) / len(site) for site in task.sites])
    assert shares.std(axis=0).min() > 0.02


@pytest.mark.parametrize("attack", ATTACKS[1:], ids=lambda attack: attack.name)
def test_every_attack_hurts_a_mean_that_checks_nothing(task: Task, undisturbed: float, attack) -> None:
    assert undisturbed > 0.9
    assert bare_accuracy(Federation(task, attack, 0), ROUNDS) < undisturbed - 0.03


@pytest.mark.parametrize("attack", ATTACKS[1:], ids=lambda attack: attack.name)
def test_the_geometric_median_stands_every_attack_of_the_table(task: Task, undisturbed: float, attack) -> None:
    (rule,) = (rule for rule in RULES if rule["rule"] == "geometric-median")
    assert final_accuracy(rule, Federation(task, attack, 0), ROUNDS) > undisturbed - 0.05


def test_the_mean_of_the_aggregator_is_numpys(task: Task) -> None:
    for attack in ATTACKS[:2]:
        federation = Federation(task, attack, 0)
        assert final_accuracy(RULES[0], federation, 3) == pytest.approx(bare_accuracy(federation, 3), abs=0.01)


def test_every_rule_that_a_plan_may_name_is_in_the_table() -> None:
    assert {rule["rule"] for rule in RULES} == FOLDED


def test_false_sites_know_and_send_what_the_attack_says(task: Task) -> None:
    model = initial_model(0)
    for attack in ATTACKS:
        updates, weights = Federation(task, attack, 0).updates(model, 0)
        assert {update.shape for update in updates} == {(ELEMENTS,)}
        assert weights[-1] == (len(task.sites[-1]) if attack is ATTACKS[0] else command.MAX_WEIGHT)
    colluding, _ = Federation(task, ATTACKS[4], 0).updates(model, 0)
    assert np.array_equal(colluding[-1], colluding[-2])
    assert np.array_equal(trained(model, task.sites[0], np.random.default_rng(1)),
                          trained(model, task.sites[0], np.random.default_rng(1)))  # fmt: skip


def test_the_command_prints_one_object_and_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "ATTACKS", ATTACKS[:2])
    assert main(["robustness", "--json", "--rounds", "1", "--seeds", "1"]) == 0
    printed = capsys.readouterr()
    data = json.loads(printed.out)["data"]
    assert set(data["accuracy"]) == {command.BARE, *FOLDED}
    assert all(0 <= score <= 1 for scores in data["accuracy"].values() for score in scores.values())
    assert len(printed.err.split("\n\n")[0].splitlines()) == len(data["accuracy"]) + 1


def test_no_rounds_are_nothing_to_measure() -> None:
    assert main(["robustness", "--rounds", "0"]) == 1
    with pytest.raises(command.BenchmarkError):
        command.BENCHMARK.run(argparse.Namespace(rounds=1, seeds=0))
