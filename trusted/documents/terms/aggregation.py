"""``plan.aggregation``: how updates become the next model. Trust zone: every TEE.

Two choices that know nothing of each other: the *rule* makes one step of all updates, and the *server* optimiser, where
there is one, makes the next model of that step. Bounds tie a rule to the cohort that the plan promises it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from trusted.documents.schema import rule
from trusted.documents.terms.cohort import MAX_DEADLINE_S, Cohort
from trusted.documents.terms.server import ServerOptimizer
from trusted.wire import Fields

MAX_WEIGHT = 1e9
MAX_COMPARED = 256  # updates side by side in memory, up to 4 MiB of each; stops a plan that fits no enclave
_MAX_ITERATIONS = 1000
_MAX_PROXIMAL_MU = 1e6
MAX_EXCHANGES = 100_000
_MAX_MESSAGE_MIB = 4096


class Rule(Enum):
    """How updates become one step."""

    WEIGHTED_MEAN = "weighted-mean"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed-mean"
    KRUM = "krum"
    MULTI_KRUM = "multi-krum"
    GEOMETRIC_MEDIAN = "geometric-median"
    SERVER_APP = "server-app"


# What each rule asks for; the fields of other rules are unknown to it.
PARAMETERS: Mapping[Rule, tuple[str, ...]] = {
    Rule.WEIGHTED_MEAN: (),
    Rule.MEDIAN: (),
    Rule.TRIMMED_MEAN: ("trim",),
    Rule.KRUM: ("byzantine",),
    Rule.MULTI_KRUM: ("byzantine", "kept"),
    Rule.GEOMETRIC_MEDIAN: ("iterations", "smoothing"),
    Rule.SERVER_APP: ("max_exchanges", "max_message_mib", "turn_s"),
}


@dataclass(frozen=True, slots=True)
class Aggregation:
    """The rule of the fold; no update weighs more than ``max_weight``, so that no site drowns the others.

    Attributes:
        trim: TRIMMED_MEAN: how many of the largest, and of the smallest, numbers at each place are left out.
        byzantine: KRUM, MULTI_KRUM: against how many false updates the choice is made.
        kept: MULTI_KRUM: how many updates are averaged.
        iterations, smoothing: GEOMETRIC_MEDIAN: steps of Weiszfeld's algorithm, always so many, and the distance below
            which it pulls no harder.
        server: what makes the next model of the step; None: the step is added.
        proximal_mu: of FedProx, for the app's training; 0: the app is told of none.
        max_exchanges: SERVER_APP: how often the app's server may ask sites something.
        max_message_mib: SERVER_APP: the size of every message, in both directions, whatever it holds.
        turn_s: SERVER_APP: how long the app's server may take, or wait for sites to come, between two exchanges.
    """

    rule: Rule
    max_weight: float
    trim: int = 0
    byzantine: int = 0
    kept: int = 0
    iterations: int = 0
    smoothing: float = 0.0
    server: ServerOptimizer | None = None
    proximal_mu: float = 0.0
    max_exchanges: int = 0
    max_message_mib: int = 0
    turn_s: int = 0

    @classmethod
    def read(cls, value: Any) -> Aggregation:
        """``plan.aggregation``; :meth:`check` holds it against the cohort."""
        with Fields(value, "plan.aggregation") as fields:
            kind = Rule(fields.choice("rule", [kind.value for kind in Rule]))
            max_weight = fields.number("max_weight", low=1, high=MAX_WEIGHT)
            own = {name: _READ[name](fields, name) for name in PARAMETERS[kind]}
            server = ServerOptimizer.read(fields.mapping("server")) if fields.has("server") else None
            proximal_mu = 0.0
            if fields.has("proximal_mu"):
                proximal_mu = fields.number("proximal_mu", low=0, high=_MAX_PROXIMAL_MU)
                rule(proximal_mu > 0, "plan.aggregation.proximal_mu", "more than 0 expected; leave it out for none")
        if kind is Rule.SERVER_APP:
            alone = server is None and not proximal_mu
            rule(alone, "plan.aggregation.server, proximal_mu", "none expected: the app's own server decides")
        return cls(kind, max_weight, **own, server=server, proximal_mu=proximal_mu)

    def to_json(self) -> dict[str, Any]:
        """``plan.aggregation``."""
        return {
            "rule": self.rule.value,
            "max_weight": self.max_weight,
            **{name: getattr(self, name) for name in PARAMETERS[self.rule]},
            **({} if self.server is None else {"server": self.server.to_json()}),
            **({"proximal_mu": self.proximal_mu} if self.proximal_mu else {}),
        }

    @property
    def train_config(self) -> dict[str, bool | int | float | str]:
        """What FedProx says with every message to train, as Flower's own strategy does."""
        return {"proximal-mu": self.proximal_mu} if self.proximal_mu else {}

    @property
    def message_bytes(self) -> int:
        """Of every message to and from an app's own server; 0 under another rule."""
        return self.max_message_mib << 20

    @property
    def moments(self) -> int:
        """How many vectors of the model's size the server optimiser remembers from round to round."""
        return 0 if self.server is None else self.server.moments

    @property
    def least(self) -> int:
        """How many updates the rule needs to mean what it says."""
        return {
            Rule.WEIGHTED_MEAN: 1,
            Rule.SERVER_APP: 1,
            Rule.MEDIAN: 3,
            Rule.GEOMETRIC_MEDIAN: 3,
            Rule.TRIMMED_MEAN: 2 * self.trim + 1,
            Rule.KRUM: 2 * self.byzantine + 3,  # Blanchard et al. 2017, proposition 4.2
            Rule.MULTI_KRUM: max(2 * self.byzantine + 3, self.byzantine + 2 + self.kept),  # El Mhamdi et al. 2018
        }[self.rule]

    def check(self, cohort: Cohort) -> None:
        """Refuse a rule that the smallest cohort which may be folded gives no meaning, or no majority.

        Raises:
            DocumentError: DOCUMENT_RULE.
        """
        enough = cohort.minimum >= self.least
        rule(enough, "plan.cohort.minimum", f"at least {self.least} expected for this plan.aggregation")
        bounded = self.rule in (Rule.WEIGHTED_MEAN, Rule.SERVER_APP) or cohort.size <= MAX_COMPARED
        rule(bounded, "plan.cohort.size", f"at most {MAX_COMPARED} expected for this plan.aggregation")
        chooses = self.rule is not Rule.SERVER_APP or cohort.size == len(cohort.members)
        rule(chooses, "plan.cohort.size", "all members expected: the app's own server chooses among them")


def _read_smoothing(fields: Fields, name: str) -> float:
    return fields.number(name, low=1e-12, high=1)


def _read_exchanges(fields: Fields, name: str) -> int:
    return fields.integer(name, low=1, high=MAX_EXCHANGES)


def _read_size(fields: Fields, name: str) -> int:
    return fields.integer(name, low=1, high=_MAX_MESSAGE_MIB)


def _read_turn(fields: Fields, name: str) -> int:
    return fields.integer(name, low=1, high=MAX_DEADLINE_S)


def _read_count(fields: Fields, name: str) -> int:
    return fields.integer(name, low=1, high=_MAX_ITERATIONS if name == "iterations" else MAX_COMPARED)


_READ: Mapping[str, Any] = {
    "trim": _read_count,
    "byzantine": _read_count,
    "kept": _read_count,
    "iterations": _read_count,
    "smoothing": _read_smoothing,
    "max_exchanges": _read_exchanges,
    "max_message_mib": _read_size,
    "turn_s": _read_turn,
}
