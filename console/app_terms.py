"""What a plan takes over from an app, and from where. Trust zone: the member's own machine.

Only what stands in the app plainly: its run config, and what its ServerApp gives to its strategy. What a person gives
on the command line goes before all of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from console.app_reading import RULES, AppSource, Strategy
from trusted.documents.terms import Scalar
from worker.bundle import bundle_digest, unpack_bundle

_KEY = re.compile(r"[A-Za-z0-9_.-]{1,128}")  # of plan.app.config
_MAX_TEXT = 1024
_ROUNDS = ("num-server-rounds", "num_rounds")


@dataclass(frozen=True, slots=True)
class AppTerms:
    """What an app says that belongs in a plan.

    Attributes:
        config: the app's whole run config, so that who signs the plan sees it.
        train_config, evaluate_config: what its ServerApp says with each message.
        rounds: how many it runs; None: it does not say.
        fraction_train: which share of the nodes it samples; None: it does not say.
        taken: one sentence for each of these, with where it stands.
        left: what was not taken over, and what to do about it.
    """

    config: Mapping[str, Scalar] = field(default_factory=dict)
    train_config: Mapping[str, Scalar] = field(default_factory=dict)
    evaluate_config: Mapping[str, Scalar] = field(default_factory=dict)
    rounds: int | None = None
    fraction_train: float | None = None
    taken: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


NOTHING = AppTerms()


def read_terms(bundle: bytes) -> AppTerms:
    """The terms of the app in ``bundle``, which was checked when it was read.

    Raises:
        AppError: it is no Flower app.
    """
    with TemporaryDirectory() as folder:
        unpacked = unpack_bundle(bundle, expected=bundle_digest(bundle), into=Path(folder) / "app")
        app = AppSource.read(unpacked)
    strategy = app.strategy()
    config = {key: value for key, value in app.config.items() if _may_stand(key, value)}
    rounds, from_rounds = _rounds(app.config, strategy)
    messages = {"train_config": strategy.train_config, "evaluate_config": strategy.evaluate_config}
    taken = [f"{len(config)} setting(s) of the run config, from [tool.flwr.app.config]"] * bool(config)
    if rounds is not None:
        taken.append(f"{rounds} round(s), from {from_rounds}")
    if (share := _share(strategy)) is not None:
        taken.append(f"a sample of {share:g} of the members each round, from fraction_train of its strategy")
    for name, said in messages.items():
        taken += [f"{name}: {key} = {value!r}, from {strategy.sources[name]}" for key, value in (said or {}).items()]
    return AppTerms(
        config=config,
        train_config=messages["train_config"] or {},
        evaluate_config=messages["evaluate_config"] or {},
        rounds=rounds,
        fraction_train=_share(strategy),
        taken=tuple(taken),
        left=tuple(_left(strategy)),
    )


def _may_stand(key: str, value: Scalar) -> bool:
    return _KEY.fullmatch(key) is not None and (not isinstance(value, str) or len(value) <= _MAX_TEXT)


def _share(strategy: Strategy) -> float | None:
    value = strategy.numbers.get("fraction_train", strategy.numbers.get("fraction_fit"))
    return value if isinstance(value, float) and 0 < value < 1 else None


def _rounds(config: Mapping[str, Scalar], strategy: Strategy) -> tuple[int | None, str]:
    """What ``start(num_rounds=...)`` is given, or else what templates call it in the run config."""
    given = strategy.numbers.get("num_rounds")
    if type(given) is int:
        return given, strategy.sources["num_rounds"]
    for key in _ROUNDS:
        if type(value := config.get(key)) is int:
            return value, f"{key} in pyproject.toml"
    return None, ""


def _left(strategy: Strategy) -> list[str]:
    left = []
    for name in strategy.names:
        if name != "FedAvg":
            rule = "the app's own class" if name in strategy.own else RULES.get(name, "which no rule here is")
            left.append(f"The app's strategy is {name} ({rule}): the plan folds as its own options say.")
    for name, said in (("train", strategy.train_config), ("evaluate", strategy.evaluate_config)):
        if said is None:
            left.append(f"{name}_config is computed by the ServerApp: give --{name}-config for what the app reads.")
    return left
