"""``python -m benchmarks robustness``: every rule under every attack. Trust zone: the developer's machine.

Updates are sealed and folded by the aggregator's own code, from the plan's terms. Whoever is not finite loses its
contribution and the rest are folded again, as in a round; under the cohort minimum the round comes to nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.command import Benchmark, BenchmarkError, Outcome, table
from benchmarks.robustness.attacks import ATTACKS, Attack
from benchmarks.robustness.digits import Task, initial_model, trained
from coordinator.enclave.fold import ContributionLost, fold
from coordinator.enclave.jobs import Inline
from coordinator.enclave.model import GlobalModel
from simulations.costs.held import Held
from trusted.documents.terms import Aggregation, Cohort
from trusted.encoding import Vector
from trusted.errors import BlobError

SITES, FALSE, MINIMUM = 10, 2, 8
MAX_WEIGHT = 300  # rows; a site has 140 or so, and a false one claims all that it may
RULES: tuple[dict[str, Any], ...] = (
    {"rule": "weighted-mean"},
    {"rule": "median"},
    {"rule": "trimmed-mean", "trim": FALSE},
    {"rule": "krum", "byzantine": FALSE},
    {"rule": "multi-krum", "byzantine": FALSE, "kept": MINIMUM - FALSE - 2},
    {"rule": "geometric-median", "iterations": 100, "smoothing": 1e-6},
)
BARE = "mean, nothing checked"


@dataclass(frozen=True, slots=True)
class Federation:
    """One run's sites, of which the last ``FALSE`` are false."""

    task: Task
    attack: Attack
    seed: int

    def updates(self, model: Vector, number: int) -> tuple[list[Vector], list[int]]:
        """What all sites send in round ``number``, and the weights that they claim."""
        made = []
        for place, rows in enumerate(self.task.sites):
            is_false, rng = place >= SITES - FALSE, np.random.default_rng((self.seed, number, place))
            mine = self.attack.poison(rows, rng) if is_false else rows
            made.append(trained(model, mine, rng) - model)
        honest, own = made[:-FALSE], made[-FALSE:]
        weights = [min(len(rows), MAX_WEIGHT) for rows in self.task.sites]
        if self.attack is not ATTACKS[0]:
            weights[-FALSE:] = [MAX_WEIGHT] * FALSE
        return honest + self.attack.forge(own, honest, np.random.default_rng((self.seed, number))), weights


def final_accuracy(rule: dict[str, Any], federation: Federation, rounds: int) -> float:
    """Of the model after so many rounds."""
    terms = Aggregation.read({"max_weight": MAX_WEIGHT} | rule)
    terms.check(Cohort(tuple(f"site-{place}" for place in range(SITES)), MINIMUM, SITES))
    model, signing_key = GlobalModel.first(initial_model(federation.seed), 0), Ed25519PrivateKey.generate()
    for number in range(rounds):
        updates, weights = federation.updates(model.vector, number)
        if _folded(model, terms, updates, weights, signing_key):
            model = model.advanced()
    return federation.task.accuracy(model.vector)


def _folded(
    model: GlobalModel,
    terms: Aggregation,
    updates: Sequence[Vector],
    weights: Sequence[int],
    signing_key: Ed25519PrivateKey,
) -> bool:
    """Whether the round came to a next model."""
    held = Held()
    given = {
        contribution.member: contribution
        for place, (update, weight) in enumerate(zip(updates, weights, strict=True))
        for contribution in (held.hold_update(f"site-{place}", update, signing_key, weight),)
    }
    while len(given) >= MINIMUM:
        try:
            fold(list(given.values()), held, terms=terms, advance=model.advance(terms.server, 1), jobs=Inline())
        except ContributionLost as lost:
            del given[lost.member]
        except BlobError:
            return False
        else:
            return True
    return False


def bare_accuracy(federation: Federation, rounds: int) -> float:
    """The same with NumPy's weighted mean and no check at all: what an attack does where nothing stands against it."""
    model = initial_model(federation.seed)
    for number in range(rounds):
        updates, weights = federation.updates(model, number)
        with np.errstate(all="ignore"):
            model = (model + np.average(updates, axis=0, weights=weights)).astype(np.float32)
    return federation.task.accuracy(model)


def measure(rounds: int, seeds: int) -> dict[str, dict[str, float]]:
    """Mean accuracy over ``seeds``, by rule and attack."""
    found: dict[str, dict[str, float]] = {}
    for attack in ATTACKS:
        federations = [Federation(Task.split(SITES, seed), attack, seed) for seed in range(seeds)]
        bare = [bare_accuracy(federation, rounds) for federation in federations]
        found.setdefault(BARE, {})[attack.name] = float(np.mean(bare))
        for rule in RULES:
            scores = [final_accuracy(rule, federation, rounds) for federation in federations]
            found.setdefault(rule["rule"], {})[attack.name] = float(np.mean(scores))
    return found


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2, help="splits of the data, over which accuracy is averaged")


def _run(options: argparse.Namespace) -> Outcome:
    if options.rounds < 1 or options.seeds < 1:
        raise BenchmarkError("nothing to measure", "Give at least one round and one seed.")
    begun = time.perf_counter()
    found = measure(options.rounds, options.seeds)
    seconds = time.perf_counter() - begun
    names = [attack.name for attack in ATTACKS]
    rows = [("rule", *names), *((rule, *(f"{scores[name]:.3f}" for name in names)) for rule, scores in found.items())]
    legend = [f"{attack.name}: the {FALSE} false of {SITES} sites send {attack.says}" for attack in ATTACKS[1:]]
    data = {
        "benchmark": BENCHMARK.name,
        "rounds": options.rounds,
        "seeds": options.seeds,
        "sites": SITES,
        "false_sites": FALSE,
        "attacks": {attack.name: attack.says for attack in ATTACKS},
        "rules": list(RULES),
        "accuracy": found,
        "seconds": round(seconds, 1),
    }
    return Outcome(data, "\n".join((table(rows), "", *legend)))


BENCHMARK = Benchmark("robustness", "final accuracy of every rule under every attack", _add_options, _run)
