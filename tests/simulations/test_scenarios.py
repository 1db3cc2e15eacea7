"""Each scenario measures what its table says; one short point of each, since whole ones take minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulations.scenarios import dropouts_quorum, non_iid, privacy_utility, rules_attacks, sites_time
from simulations.scenarios.digits_net import evaluate, recipe, split, start
from simulations.scenarios.hospitals import found
from simulations.scenarios.scenario import Wishes
from simulations.sweep import Point, Swept


def wishes(folder: Path, **changes: object) -> Wishes:
    return Wishes(folder, lambda done, total, text: None, **changes)  # type: ignore[arg-type]


def test_held_out_digits_are_at_no_site() -> None:
    sites, held_out = split(7)
    assert len(sites) + len(held_out) == 1797
    there = {row.tobytes() for row in sites.columns["pixels"]}
    shared = sum(row.tobytes() in there for row in held_out.columns["pixels"])
    assert shared <= 2  # the data itself has a few twins


def test_the_network_learns_and_is_the_same_twice() -> None:
    sites, held_out = split(7)
    rows, task = dict(sites.columns), recipe(7)
    one, _ = task.trains(start(7), rows, np.random.default_rng(1), task.config)
    two, _ = task.trains(start(7), rows, np.random.default_rng(1), task.config)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert evaluate(one, held_out.columns)["accuracy"] > evaluate(start(7), held_out.columns)["accuracy"] + 0.3


def test_gradients_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    from simulations.scenarios.digits_net import _gradients

    sites, _ = split(7)
    x, y = sites.columns["pixels"][:16], sites.columns["digit"][:16]
    model = {name: torch.tensor(array, requires_grad=True) for name, array in start(7).items()}
    hidden = torch.relu(torch.nn.functional.linear(torch.tensor(x), model["hidden.weight"], model["hidden.bias"]))
    scores = torch.nn.functional.linear(hidden, model["out.weight"], model["out.bias"])
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor(y))
    loss.backward()
    ours, value = _gradients(start(7), x, y)
    assert value == pytest.approx(loss.item(), rel=1e-5)
    for name, gradient in ours.items():
        assert np.allclose(gradient, model[name].grad.numpy(), atol=1e-6), name


def test_each_sweep_has_points_that_can_be_measured() -> None:
    assert set(non_iid.measure({"alpha": 0.1, "folded by": "median", "rounds": 1, "seed": 7})) == {"accuracy"}
    spent = privacy_utility.measure({"sites": 30, "noise multiplier": 4.0, "rounds": 1, "seed": 7})
    assert spent["ε"] > 0
    assert "ε" not in privacy_utility.measure({"sites": 30, "noise multiplier": 0.0, "rounds": 1, "seed": 7})
    lost = dropouts_quorum.measure({"dropout": 0.6, "minimum": 18, "rounds": 2, "seed": 7})
    assert lost["rounds committed"] == 0
    timed = sites_time.measure({"sites": 60, "rounds": 2, "seed": 7})
    assert timed["memory, MB"] > 10
    assert timed["seconds a round"] > 0


def test_an_attack_is_shown_to_work_before_a_defence_is_credited(tmp_path: Path) -> None:
    """Two rounds of the loudest attack: the undefended mean falls, and the table says so."""
    point = {"rounds": 8, "seed": 7}
    honest = rules_attacks.measure({"attack": "none", "rule": "weighted-mean", **point})["accuracy"]
    fooled = rules_attacks.measure({"attack": "sign flip", "rule": "weighted-mean", **point})["accuracy"]
    saved = rules_attacks.measure({"attack": "sign flip", "rule": "multi-krum", **point})["accuracy"]
    assert honest - fooled > rules_attacks.WORKED
    assert saved > fooled + rules_attacks.WORKED


def test_a_backdoor_says_how_often_it_opens() -> None:
    found = rules_attacks.measure({"attack": "backdoor", "rule": "weighted-mean", "rounds": 8, "seed": 7})
    assert found["backdoor's success"] > 0.5


def test_an_attack_that_did_not_work_credits_nobody() -> None:
    def swept(under_attack: float) -> Swept:
        points = [
            Point({"attack": attack, "rule": rule, "seed": 7}, {"accuracy": value}, 0.0)
            for attack, value in (("none", 0.9), ("noise", under_attack))
            for rule in ("weighted-mean", "median")
        ]
        return Swept(("attack", "rule"), tuple(points))

    assert "no defence is credited: noise" in rules_attacks._says(rules_attacks._means(swept(0.85)))[0]
    assert rules_attacks._says(rules_attacks._means(swept(0.5))) == (
        "Every attack worked against the undefended mean.",
    )


def test_a_scenario_that_needs_the_checkout_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from console.output import UserError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simulations.scenarios.hospitals.REPOSITORY", tmp_path)
    with pytest.raises(UserError, match="data/rand_hie is not here"):
        found(Path("data/rand_hie"))


def test_a_scenarios_points_are_kept_and_found_again(tmp_path: Path) -> None:
    from simulations.sweep import Sweep

    sweep = Sweep(dropouts_quorum.measure, {"dropout": (0.6,), "minimum": (18,)}, (7,), {"rounds": 1})
    first = wishes(tmp_path, processes=1).sweep(sweep)
    assert wishes(tmp_path, processes=1).sweep(sweep).points == first.points
    assert wishes(tmp_path, seed=3, seeds=2).all_seeds == (3, 4)
