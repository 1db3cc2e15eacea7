"""The attacks that tests try, and what each does where; ``python -m tests.simulations.attacked`` prints the table.

A rule holds where it loses no more than ``TOLERANCE`` of what it reaches without the attack, and where the attacker's
own aim, if there is one, is reached on no more than ``RARELY`` of the rows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from simulations import behaviours as act
from simulations.behaviour import Behaviour
from tests.simulations.digits import FALSE, LIARS, ROUNDS, baseline, under

TOLERANCE, RARELY = 0.03, 0.1
RULES: Mapping[str, Mapping[str, Any]] = {
    "weighted-mean": {"rule": "weighted-mean"},
    "median": {"rule": "median"},
    "trimmed-mean": {"rule": "trimmed-mean", "trim": FALSE},
    "krum": {"rule": "krum", "byzantine": FALSE},
    "multi-krum": {"rule": "multi-krum", "byzantine": FALSE, "kept": 4},
    "geometric-median": {"rule": "geometric-median", "iterations": 100, "smoothing": 1e-6},
}
NOTHING = "nothing checked"
ROBUST = ("median", "trimmed-mean", "krum", "multi-krum", "geometric-median")


@dataclass(frozen=True, slots=True)
class Attack:
    """What is done, by how much it hurts the mean that checks nothing, and under which rules it does not, or does.

    ``aims`` names the behaviour whose probe counts, in the place of the accuracy that is lost. ``made_for``: the rule
    that it is made for, which it hurts by ``least`` in the place of the mean.
    """

    name: str
    behaviours: tuple[Behaviour, ...]
    least: float
    holds: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    aims: str = ""
    made_for: str = NOTHING
    rounds: int = ROUNDS


_TURNED = act.label_flip(LIARS, label="digit", values=range(10))
_CORNERS = act.Patch("pixels", (0, 7, 56, 63), 1.0)
_BACKDOOR = act.backdoor(LIARS, trigger=_CORNERS, label="digit", target=0)
_MISLABEL = act.mislabel(LIARS, label="digit", of=3, to=8)
_MEAN = ("weighted-mean",)
_BY_PLACE = ("median", "trimmed-mean", "geometric-median")

ATTACKS = (
    Attack("label flip, twice the weight", (_TURNED, act.overweight(LIARS, times=2)), 0.05, ROBUST, _MEAN),
    Attack("label flip, 20 times the update", (_TURNED, act.scaled(LIARS)), 0.5, ROBUST, _MEAN),
    Attack("label flip, 20 times the weight", (_TURNED, act.overweight(LIARS, times=20)), 0.5, (*_MEAN, *ROBUST)),
    Attack("sign flip", (act.sign_flip(LIARS),), 0.5, ROBUST, _MEAN),
    Attack("noise", (act.noise(LIARS),), 0.2, ROBUST, _MEAN),
    Attack("NaN", (act.nan(LIARS),), 0.5, (*_MEAN, *ROBUST)),
    Attack("a little", (act.a_little(LIARS),), 0.03, ROBUST, _MEAN),
    Attack("against the mean", (act.against_mean(LIARS, times=4),), 0.5, ROBUST, _MEAN),
    Attack(
        "around Krum", (act.around_krum(LIARS, byzantine=FALSE),), 0.08, _BY_PLACE, ("multi-krum",), made_for="krum"
    ),
    Attack(
        "around Multi-Krum",
        (act.around_krum(LIARS, byzantine=FALSE, kept=4),),
        0.04,
        _BY_PLACE,
        made_for="multi-krum",
    ),
    Attack("backdoor", (_BACKDOOR,), 0.4, ROBUST[:4], (*_MEAN, "geometric-median"), "backdoor"),
    Attack(
        "backdoor, 5 times the update",
        (_BACKDOOR, act.scaled(LIARS, times=5)),
        0.9,
        ROBUST[:4],
        (*_MEAN, "geometric-median"),
        "backdoor",
    ),
    Attack(
        "one digit for another, 5 times the update",
        (_MISLABEL, act.scaled(LIARS, times=5)),
        0.3,
        ROBUST,
        _MEAN,
        "mislabel",
    ),
    Attack("idle", (act.idle(LIARS),), 0.05, fails=(*_MEAN, *_BY_PLACE), rounds=4),
    Attack("stale", (act.stale(LIARS),), 0.05, fails=(*_MEAN, *_BY_PLACE, "multi-krum"), rounds=4),
    Attack("pretending", (act.pretending(LIARS),), 0.05, fails=(*_MEAN, *_BY_PLACE), rounds=4),
)


@cache
def ended(rule: str, behaviours: tuple[Behaviour, ...], rounds: int) -> Mapping[str, float]:
    """What is said of the model in the end, under a rule or where nothing is checked."""
    return baseline(behaviours, rounds) if rule == NOTHING else under(RULES[rule], behaviours, rounds)


def accuracy(attack: Attack, rule: str) -> tuple[float, float]:
    """In the end, without the attack and with it."""
    quiet, attacked = ended(rule, (), attack.rounds), ended(rule, attack.behaviours, attack.rounds)
    return quiet["accuracy"], attacked["accuracy"]


def success(attack: Attack, rule: str) -> float:
    """On which share of the rows that it aims at the attack succeeds."""
    return ended(rule, attack.behaviours, attack.rounds)[f"{attack.aims}-accuracy"]


def cell(attack: Attack, rule: str) -> str:
    """Of the table; bold where the attack succeeds."""
    quiet, attacked = accuracy(attack, rule)
    aimed = success(attack, rule) if attack.aims else 0.0
    told = f"{attacked:.3f} ({aimed:.0%})" if attack.aims else f"{attacked:.3f}"
    return f"**{told}**" if aimed > RARELY or (not attack.aims and attacked < quiet - TOLERANCE) else told


def main() -> int:
    """Print the table of docs/simulation-adversaries.md."""
    columns = (NOTHING, *RULES)
    print("| attack | rounds |", " | ".join(columns), "|")
    print("|---|---|" + "---|" * len(columns))
    for rounds in (ROUNDS, 4):
        print(f"| none | {rounds} |", " | ".join(f"{ended(rule, (), rounds)['accuracy']:.3f}" for rule in columns), "|")
    for attack in ATTACKS:
        row = [cell(attack, rule) for rule in columns]
        print(f"| {attack.name} | {attack.rounds} |", " | ".join(row), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
