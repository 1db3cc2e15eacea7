"""``plan.privacy``: what keeps one contribution from being told from the result. Trust zone: every TEE.

Two runs are *neighbours* when the data of one unit is replaced by nothing in one of them: a member's update by zeros, a
record's or person's gradient by zeros. How many units there are, and who takes part, is public in both
(docs/privacy.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from trusted.documents.schema import read_line
from trusted.wire import Fields

MAX_STEPS = 100_000
MAX_CLIP = 1e6
MAX_NOISE_MULTIPLIER = 1e3
# Beyond 20 a guess may be right 99.9999997 % of the time: nothing is promised, and signers may think that it is.
MAX_EPSILON = 20.0
MAX_DELTA = 1e-3
_LEAST = 1e-6
_LEAST_DELTA = 1e-12
_LEAST_NOISE = 0.1


class Mechanism(Enum):
    """What keeps one contribution from being told from the result."""

    NONE = "none"
    MEMBER_CLIPPING = "member-clipping"
    DP_SGD = "dp-sgd"


class Unit(Enum):
    """Whose data cannot be told from the result: all of a member's, all of a person's at a site, or one record."""

    MEMBER = "member"
    PERSON = "person"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class Budget:
    """What all rounds of the run together may spend: (``epsilon``, ``delta``)-differential privacy."""

    epsilon: float
    delta: float

    @classmethod
    def read(cls, fields: Fields) -> Budget:
        """``epsilon`` and ``delta`` of ``plan.privacy``."""
        return cls(
            fields.number("epsilon", low=0.01, high=MAX_EPSILON),
            fields.number("delta", low=_LEAST_DELTA, high=MAX_DELTA),
        )


@dataclass(frozen=True, slots=True)
class MemberClipping:
    """No update is longer than ``clip_norm`` (L2); the aggregator adds noise once, to the sum of a round.

    ``noise_multiplier`` is the standard deviation of that noise, divided by ``clip_norm``.
    """

    clip_norm: float
    noise_multiplier: float

    @classmethod
    def read(cls, fields: Fields) -> MemberClipping:
        """The fields of ``plan.privacy`` that are this mechanism's own."""
        return cls(
            fields.number("clip_norm", low=_LEAST, high=MAX_CLIP),
            fields.number("noise_multiplier", low=_LEAST_NOISE, high=MAX_NOISE_MULTIPLIER),
        )

    @property
    def unit(self) -> Unit:
        """The member."""
        return Unit.MEMBER

    def to_json(self) -> dict[str, Any]:
        """As :meth:`read` takes them."""
        return {"clip_norm": self.clip_norm, "noise_multiplier": self.noise_multiplier}


@dataclass(frozen=True, slots=True)
class DpSgd:
    """Each site trains by DP-SGD: at most ``max_steps`` steps in a round, each on a Poisson sample of its units.

    Attributes:
        unit: RECORD or PERSON; a person's records are those with one value of ``person_column``.
        max_grad_norm: no unit's gradient is longer (L2).
        noise_multiplier: standard deviation of the noise on the sum of gradients, divided by ``max_grad_norm``.
        sample_rate: with this probability a unit is in the sample of a step, (0, 1].
    """

    unit: Unit
    max_grad_norm: float
    noise_multiplier: float
    sample_rate: float
    max_steps: int
    person_column: str | None = None

    @classmethod
    def read(cls, fields: Fields) -> DpSgd:
        """The fields of ``plan.privacy`` that are this mechanism's own."""
        unit = Unit(fields.choice("unit", [Unit.RECORD.value, Unit.PERSON.value]))
        return cls(
            unit=unit,
            max_grad_norm=fields.number("max_grad_norm", low=_LEAST, high=MAX_CLIP),
            noise_multiplier=fields.number("noise_multiplier", low=_LEAST_NOISE, high=MAX_NOISE_MULTIPLIER),
            sample_rate=fields.number("sample_rate", low=_LEAST, high=1),
            max_steps=fields.integer("max_steps", low=1, high=MAX_STEPS),
            person_column=read_line(fields, "person_column", max_length=128) if unit is Unit.PERSON else None,
        )

    def to_json(self) -> dict[str, Any]:
        """As :meth:`read` takes them."""
        return {
            "unit": self.unit.value,
            "max_grad_norm": self.max_grad_norm,
            "noise_multiplier": self.noise_multiplier,
            "sample_rate": self.sample_rate,
            "max_steps": self.max_steps,
            **({} if self.person_column is None else {"person_column": self.person_column}),
        }


@dataclass(frozen=True, slots=True)
class Privacy:
    """The privacy mechanism. ``NONE`` is written out, with the reason that the signers accept; others have a budget."""

    mechanism: Mechanism
    reason: str = ""
    terms: MemberClipping | DpSgd | None = None
    budget: Budget | None = None

    @classmethod
    def read(cls, value: Any) -> Privacy:
        """``plan.privacy``."""
        with Fields(value, "plan.privacy") as fields:
            mechanism = Mechanism(fields.choice("mechanism", [kind.value for kind in Mechanism]))
            if mechanism is Mechanism.NONE:
                return cls(mechanism, read_line(fields, "reason", max_length=500))
            kind = MemberClipping if mechanism is Mechanism.MEMBER_CLIPPING else DpSgd
            return cls(mechanism, terms=kind.read(fields), budget=Budget.read(fields))

    @property
    def dp_sgd(self) -> DpSgd | None:
        """The terms of DP-SGD, where that is the mechanism."""
        return self.terms if isinstance(self.terms, DpSgd) else None

    @property
    def member_clipping(self) -> MemberClipping | None:
        """The terms of clipping members' updates, where that is the mechanism."""
        return self.terms if isinstance(self.terms, MemberClipping) else None

    def to_json(self) -> dict[str, Any]:
        """``plan.privacy``."""
        if self.terms is None or self.budget is None:
            return {"mechanism": self.mechanism.value, "reason": self.reason}
        budget = {"epsilon": self.budget.epsilon, "delta": self.budget.delta}
        return {"mechanism": self.mechanism.value, **self.terms.to_json(), **budget}
