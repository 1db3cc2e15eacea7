"""What a plan takes over from an app, and from where. Trust zone: the member's own machine.

Only what stands in the app plainly: its run config, and what its ServerApp gives to its strategy. What a person gives
on the command line goes before all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from console.app_reading import RULES, AppSource, Strategy
from console.output import UserError
from trusted.apps.bundle import bundle_digest, unpack_bundle
from trusted.documents.terms import Scalar

_KEY = re.compile(r"[A-Za-z0-9_.-]{1,128}")  # of plan.app.config
_MAX_DIGITS = 6  # of a round's number
_MAX_TEXT = 1024
_OUR_OWN = ("server-round", "server_round")
_ROUNDS = ("num-server-rounds", "num_rounds")


@dataclass(frozen=True, slots=True)
class AppTerms:
    """What an app says that belongs in a plan.

    Attributes:
        config: the app's whole run config, so that who signs the plan sees it.
        train_config, evaluate_config: what its ServerApp says with each message.
        rounds: how many it runs; None: it does not say.
        fraction_train: which share of the nodes it samples; None: it does not say.
        taken: a sentence for each of these, with where it stands, by its option.
        left: what was not taken over, and what to do about it.
    """

    config: Mapping[str, Scalar] = field(default_factory=dict)
    train_config: Mapping[str, Scalar] = field(default_factory=dict)
    evaluate_config: Mapping[str, Scalar] = field(default_factory=dict)
    rounds: int | None = None
    fraction_train: float | None = None
    taken: Mapping[str, str] = field(default_factory=dict)
    left: tuple[str, ...] = ()

    def taken_besides(self, given: Collection[str]) -> list[str]:
        """The sentences, but those whose option was ``given``."""
        return [sentence for option, sentence in self.taken.items() if option not in given]


NOTHING = AppTerms()


def read_settings(texts: Sequence[str]) -> dict[str, Any]:
    """``key=value`` each; a value that is JSON is taken as such, anything else is a string.

    Raises:
        UserError: no ``=``.
    """
    return dict(map(_setting, texts))


def read_messages(texts: Sequence[str]) -> dict[int, dict[str, Any]]:
    """The settings by the round from which they hold: ``key=value`` from the first, ``5:key=value`` from the fifth.

    Raises:
        UserError: as :func:`read_settings`.
    """
    found: dict[int, dict[str, Any]] = {}
    for text in texts:
        first, colon, rest = text.partition(":")
        later = colon and first.isdecimal() and len(first) < _MAX_DIGITS
        key, value = _setting(rest if later else text)
        found.setdefault(int(first) if later else 1, {})[key] = value
    return found


def read_terms(bundle: bytes, overrides: Mapping[str, Scalar]) -> AppTerms:
    """The terms of the app in ``bundle``, which was checked when it was read, with ``overrides`` of its run config.

    Raises:
        AppError: it is no Flower app.
    """
    with TemporaryDirectory() as folder:
        unpacked = unpack_bundle(bundle, expected=bundle_digest(bundle), into=Path(folder) / "app")
        app = AppSource.read(unpacked)
    app = replace(app, config={**app.config, **overrides})
    strategy = app.strategy()
    config = {key: value for key, value in app.config.items() if _may_stand(key, value)}
    rounds, from_rounds = _rounds(app.config, strategy)
    own = len(config.keys() - overrides.keys())
    taken = {"config": f"{own} setting(s) of the run config, from [tool.flwr.app.config]"} if own else {}
    if rounds is not None:
        taken["rounds"] = f"{rounds} round(s), from {from_rounds}"
    if (share := _share(strategy)) is not None:
        taken["size"] = f"a sample of {share:g} of the members each round, from fraction_train of its strategy"
    said = {"train_config": _said(strategy.train_config), "evaluate_config": _said(strategy.evaluate_config)}
    for name, settings in said.items():
        for key, value in settings.items():
            taken[f"{name}.{key}"] = f"{name}: {key} = {value!r}, from {strategy.sources[name]}"
    left = tuple(_left(strategy))
    return AppTerms(config, **said, rounds=rounds, fraction_train=share, taken=taken, left=left)


def _said(settings: Mapping[str, Scalar] | None) -> dict[str, Scalar]:
    """What a plan may carry of it: the round's number is the worker's to write."""
    return {key: value for key, value in (settings or {}).items() if key not in _OUR_OWN and _may_stand(key, value)}


def _setting(text: str) -> tuple[str, Any]:
    """``key=value``; a value that is JSON is taken as such, anything else is a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError("an app setting without a value", "Write --config key=value.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


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
