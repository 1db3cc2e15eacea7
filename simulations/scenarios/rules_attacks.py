"""Which folding rule stands which attack? Every rule × every attack, and the undefended mean beside them. Public data.

A defence is credited only where the attack worked: an attack that the weighted mean survives proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from simulations import behaviours, partitions
from simulations.behaviour import Behaviour
from simulations.drawing import Picture, draw
from simulations.scenarios.digits_net import DIGIT, DIGITS, PIXELS, recipe, split
from simulations.scenarios.scenario import Outcome, Scenario, Wishes
from simulations.simulation import Simulation
from simulations.sweep import Sweep, Swept
from simulations.sweep_shown import interval
from simulations.table import Cell, Table

SITES, FALSE, ROUNDS = 20, 4, 30
_LIARS = tuple(f"site-{place:04d}" for place in range(FALSE))  # the same for every part of an attack
WORKED = 0.1  # of accuracy lost under the weighted mean, or of rows on which the backdoor succeeds
_BASELINE = "weighted-mean"
_RULES: Mapping[str, Mapping[str, Any]] = {
    _BASELINE: {"rule": "weighted-mean"},
    "median": {"rule": "median"},
    "trimmed-mean": {"rule": "trimmed-mean", "trim": FALSE},
    "multi-krum": {"rule": "multi-krum", "byzantine": FALSE, "kept": SITES - FALSE - 2},
    "geometric-median": {"rule": "geometric-median", "iterations": 50, "smoothing": 1e-6},
}
_CORNER = behaviours.Patch(PIXELS, (0, 1, 8, 9), 1.0)


def _backdoor() -> tuple[Behaviour, ...]:
    """A bright corner means seven; and the false sites' updates count several times."""
    door = behaviours.backdoor(_LIARS, trigger=_CORNER, label=DIGIT, target=7)
    return door, behaviours.scaled(_LIARS, times=3.0)


def _flipped(sites: tuple[str, ...]) -> Behaviour:
    return behaviours.label_flip(sites, label=DIGIT, values=range(DIGITS))


_NONE, _BACKDOOR, _SUCCESS = "none", "backdoor", "backdoor's success"
_ATTACKS: Mapping[str, Callable[[], tuple[Behaviour, ...]]] = {
    _NONE: lambda: (),
    "label flip": lambda: (_flipped(_LIARS),),
    "label flip, 5 times": lambda: (_flipped(_LIARS), behaviours.scaled(_LIARS, times=5.0)),
    "sign flip": lambda: (behaviours.sign_flip(_LIARS),),
    "noise": lambda: (behaviours.noise(_LIARS, deviation=2.0),),
    "a little": lambda: (behaviours.a_little(_LIARS, deviations=12.0),),
    "against the mean": lambda: (behaviours.against_mean(_LIARS, times=6.0),),
    _BACKDOOR: _backdoor,
}


def measure(settings: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy, and the share of triggered rows that are taken for the attacker's digit, after the last round."""
    seed = int(settings["seed"])
    dataset, held_out = split(seed)
    result = Simulation(
        recipe(seed, epochs=2),
        dataset,
        partitions.iid(dataset, SITES, seed=seed),
        held_out=held_out,
        rounds=settings["rounds"],
        aggregation=_RULES[settings["rule"]],
        behaviours=_ATTACKS[settings["attack"]](),
        engine="in-process",
        seed=seed,
        evaluate_every=0,
    ).run()
    found = {"accuracy": result.final["accuracy"]}
    if settings["attack"] == _BACKDOOR:
        found[_SUCCESS] = result.final[f"{_BACKDOOR}-accuracy"]
    return found


def run(wishes: Wishes) -> Outcome:
    """Every attack under every rule."""
    rounds = wishes.rounds or ROUNDS
    sweep = Sweep(measure, {"attack": tuple(_ATTACKS), "rule": tuple(_RULES)}, wishes.all_seeds, {"rounds": rounds})
    swept = wishes.sweep(sweep)
    means = _means(swept)
    table = _table(swept, means, rounds, wishes.seeds)
    settings = {"rules": {name: dict(rule) for name, rule in _RULES.items()}, "attacks": list(_ATTACKS)}
    return Outcome(table, lambda: _picture(means), _says(means), settings)


_Means = Mapping[tuple[str, str], float]


def _means(swept: Swept) -> _Means:
    """By attack (the backdoor's success is one of its own) and rule."""
    found: dict[tuple[str, str], float] = {}
    for (attack, rule), points in swept.groups().items():
        for name, row in (("accuracy", attack), (_SUCCESS, _SUCCESS)):
            mean = interval(points, name)
            if mean is not None:
                found[row, rule] = mean.mean
    return found


def _worked(means: _Means, attack: str) -> bool:
    under = means[attack, _BASELINE]
    return under >= WORKED if attack == _SUCCESS else means[_NONE, _BASELINE] - under >= WORKED


def _rows(means: _Means) -> list[str]:
    return list(dict.fromkeys(attack for attack, _ in means))


def _table(swept: Swept, means: _Means, rounds: int, seeds: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    groups = swept.groups()
    for attack in _rows(means):
        where, name = (_BACKDOOR, _SUCCESS) if attack == _SUCCESS else (attack, "accuracy")
        worked = "" if attack in (_NONE, _BACKDOOR) else ("yes" if _worked(means, attack) else "no")
        rows.append((attack, worked, *(str(interval(groups[where, rule], name)) for rule in _RULES)))
    title = f"Accuracy after {rounds} rounds: {SITES} sites, {FALSE} of them false, {seeds} seed(s)"
    notes = (
        f"Worked: the undefended {_BASELINE} lost {WORKED:g} or more, or the backdoor opened on as many rows.",
        "± half of the 95 % interval (Student's t). Of the backdoor less is better; it leaves accuracy alone.",
    )
    return Table(title, ("attack", "worked", *_RULES), tuple(rows), notes)


def _says(means: _Means) -> tuple[str, ...]:
    idle = [attack for attack in _rows(means) if attack not in (_NONE, _BACKDOOR) and not _worked(means, attack)]
    if idle:
        return (f"Not shown to work against the undefended mean, so no defence is credited: {', '.join(idle)}.",)
    return ("Every attack worked against the undefended mean.",)


def _picture(means: _Means) -> Picture:
    picture, (axis,) = draw(1, width=6.4, height=3.6)
    attacks, rules = _rows(means), list(_RULES)
    values = [[means[attack, rule] for rule in rules] for attack in attacks]
    good = [
        [1 - value if attack == _SUCCESS else value for value in row]
        for attack, row in zip(attacks, values, strict=True)
    ]
    image = axis.imshow(good, cmap="RdYlBu", vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9)
    axis.set_xticks(range(len(rules)), rules, rotation=15, ha="right")
    axis.set_yticks(range(len(attacks)), attacks)
    axis.grid(visible=False)
    axis.set_title(f"accuracy with {FALSE} of {SITES} sites false (blue: good)")
    picture.figure.colorbar(image, ax=axis).set_ticks([])
    return picture


SCENARIO = Scenario("rules_attacks", "Which folding rule stands which attack?", "3 minutes", run)
