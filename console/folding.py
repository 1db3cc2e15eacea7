"""How updates become the next model, from what a person gives. Trust zone: the member's own machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from console.output import UserError
from trusted.documents.terms import Aggregation, Rule

_ITERATIONS, _SMOOTHING = 100, 1e-6
_NEED_FALSE_SITES = {
    Rule.TRIMMED_MEAN: "trim",
    Rule.KRUM: "byzantine",
    Rule.MULTI_KRUM: "byzantine",
}
# Flower's own defaults, but for the momentum, which Flower leaves at 0.
_SERVERS: Mapping[str, Mapping[str, float]] = {
    "momentum": {"learning_rate": 1.0, "beta_1": 0.9},
    "adam": {"learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "yogi": {"learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "adagrad": {"learning_rate": 0.1, "tau": 1e-3},
}


@dataclass(frozen=True, slots=True)
class Folding:
    """A rule by name, how many false sites it shall stand, how many updates it keeps, and what comes after it.

    ``server`` is the name of an optimiser, perhaps with numbers: ``adam:learning_rate=0.01,tau=0.1``. ``server_app``:
    of the app's own server, how many exchanges, the MiB of a message, and the seconds of a turn.
    """

    rule: str = Rule.WEIGHTED_MEAN.value
    false_sites: int | None = None
    kept: int | None = None
    server: str | None = None
    proximal_mu: float | None = None
    server_app: tuple[int, int, int] = (0, 0, 0)

    def to_json(self, max_weight: float, minimum: int) -> dict[str, Any]:
        """``plan.aggregation`` for a cohort of at least ``minimum``.

        Raises:
            UserError: an option is missing, too much, or needs a larger cohort.
        """
        rule = Rule(self.rule)
        document = {"rule": rule.value, "max_weight": max_weight, **self._parameters(rule, minimum)}
        if self.server is not None:
            document["server"] = _server(self.server)
        if self.proximal_mu is not None:
            document["proximal_mu"] = self.proximal_mu
        least = Aggregation.read(document).least
        if minimum < least:
            said = f"--rule {rule.value}: a round of only {minimum} updates would mean nothing to it"
            raise UserError(said, f"Give --minimum {least} or more, or fewer --false-sites.")
        return document

    def _parameters(self, rule: Rule, minimum: int) -> dict[str, Any]:
        named = _NEED_FALSE_SITES.get(rule)
        if (named is None) != (self.false_sites is None):
            wrong = "how many false sites shall it stand?" if named else "it takes no number of false sites"
            hint = "Give --false-sites." if named else "Leave --false-sites out."
            raise UserError(f"--rule {rule.value}: {wrong}", hint)
        if self.kept is not None and rule is not Rule.MULTI_KRUM:
            raise UserError(f"--rule {rule.value}: it keeps no number of updates", "Leave --kept out.")
        if rule is Rule.SERVER_APP:
            return dict(zip(("max_exchanges", "max_message_mib", "turn_s"), self.server_app, strict=True))
        if rule is Rule.GEOMETRIC_MEDIAN:
            return {"iterations": _ITERATIONS, "smoothing": _SMOOTHING}
        if named is None or self.false_sites is None:
            return {}
        kept = {"kept": self.kept or max(1, minimum - self.false_sites - 2)} if rule is Rule.MULTI_KRUM else {}
        return {named: self.false_sites, **kept}


MEAN = Folding()


def describe(aggregation: Aggregation) -> str:
    """One line for a table."""
    server = "" if aggregation.server is None else f", then {aggregation.server.optimizer.value}"
    proximal = f"; proximal term {aggregation.proximal_mu:g}" if aggregation.proximal_mu else ""
    return f"{aggregation.rule.value}{server}{proximal}"


def _server(text: str) -> dict[str, Any]:
    name, colon, numbers = text.partition(":")
    if name not in _SERVERS:
        raise UserError(f"--server {name}: no such optimiser", f"One of {', '.join(_SERVERS)}.")
    given: dict[str, float] = {}
    for pair in numbers.split(",") if colon else ():
        key, _, value = pair.partition("=")
        try:
            given[key] = float(value)
        except ValueError:
            raise UserError(f"--server {name}: {key} is no number", _example(name)) from None
        if key not in _SERVERS[name]:
            raise UserError(f"--server {name}: it has no {key}", _example(name))
    return {"optimizer": name, **_SERVERS[name], **given}


def _example(name: str) -> str:
    return f"Write, say, --server {name}:{','.join(f'{key}={value:g}' for key, value in _SERVERS[name].items())}"
