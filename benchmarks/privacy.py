"""What ε = 1 costs on RAND: six sites, federated, with and without DP-SGD. Trust zone: the developer's machine.

The training is the app's own (``examples/rand_hie``), and the private one that of ``worker.dp_sgd`` under a plan's
terms; the federation is a loop in this process. A person is the unit. AUC is on persons whom no site trained on.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.command import Benchmark, Outcome, table
from coordinator.enclave.privacy.accountant import Accountant
from trusted.documents.terms import DpSgd, Unit
from worker import dp_sgd

_REPOSITORY = Path(__file__).resolve().parents[1]
_APP, _DATA = _REPOSITORY / "examples" / "rand_hie", _REPOSITORY / "data" / "rand_hie"
EPSILON, DELTA = 1.0, 1e-5
_MOST_LOST = 0.02
_ROUNDS, _LEARNING_RATE = 4, 1.25
_TERMS = DpSgd(
    unit=Unit.PERSON,
    max_grad_norm=2.0,
    noise_multiplier=16.75,
    sample_rate=1.0,
    max_steps=5,
    person_column="zper",
)
_PLAIN_ROUNDS, _SEED = 12, 7


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=5, help="private runs, each with its own noise")


def _run(options: argparse.Namespace) -> Outcome:
    sys.path.insert(0, str(_APP))
    import torch

    task: Any = importlib.import_module("rand_hie.task")

    torch.set_num_threads(1)
    files = sorted(_DATA.glob("site-*.csv"))
    sites = [task.split(task.load_table(file), _SEED) for file in files]
    spent = Accountant(_TERMS, DELTA).epsilon(_ROUNDS)

    def plain(net: Any, rows: Any, number: int) -> None:
        task.train(net, rows, epochs=3, lr=0.05, batch=64, seed=_SEED * 1000 + number)

    def private(net: Any, rows: Any, number: int) -> None:
        dp_sgd.set_terms(_TERMS)
        task.train_private(net, rows, lr=_LEARNING_RATE)

    weights = [float(len(site.train.y)) for site in sites]
    without = _federated(task, sites, "net", _PLAIN_ROUNDS, weights, plain)
    runs = [
        _federated(task, sites, "linear", _ROUNDS, [1.0] * len(sites), private) for _ in range(max(1, options.repeats))
    ]
    dp_sgd.set_terms(None)
    lost = without - fmean(runs)
    data = {
        "unit": "person",
        "sites": len(sites),
        "persons": [len(set(site.train.person)) for site in sites],
        "epsilon": spent,
        "delta": DELTA,
        "auc": {"without": without, "private": fmean(runs), "private_runs": runs},
        "lost": lost,
    }
    rows: list[tuple[str, ...]] = [
        ("", "ε", "AUC, mean over the sites"),
        ("without privacy", "∞", f"{without:.4f}"),
        ("DP-SGD, unit person", f"{spent:.3f}", f"{fmean(runs):.4f} ({min(runs):.4f} to {max(runs):.4f})"),
        ("costs", "", f"{lost:.4f}"),
    ]
    failures = []
    if spent > EPSILON:
        failures.append(f"spends more than ε = {EPSILON:g}")
    if lost > _MOST_LOST:
        failures.append(f"costs more than {_MOST_LOST:g} AUC")
    return Outcome(data, table(rows), tuple(failures))


def _federated(
    task: Any, sites: list[Any], kind: str, rounds: int, weights: list[float], train: Callable[[Any, Any, int], None]
) -> float:
    """The held-out AUC, averaged over the sites, after ``rounds`` of ``train`` from the same model at each."""
    arrays = task.initial_arrays(_SEED, kind)
    shares = [weight / sum(weights) for weight in weights]
    for number in range(1, rounds + 1):
        trained = []
        for site in sites:
            net = task.make_net(kind)
            net.load_state_dict(arrays)
            train(net, site.train, number)
            trained.append(net.state_dict())
        arrays = {
            name: sum(share * state[name] for share, state in zip(shares, trained, strict=True)) for name in arrays
        }
    net = task.make_net(kind)
    net.load_state_dict(arrays)
    return fmean(task.evaluate(net, site.held_out)[1] for site in sites)


BENCHMARK = Benchmark("privacy", "What ε = 1 with the person as its unit costs on RAND, in AUC.", _options, _run)
