"""``plan.cohort`` and ``plan.deadlines``: who trains, how many, and how long. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trusted.documents.schema import read_members, rule
from trusted.wire import Fields

MAX_COHORT = 1024
MAX_DEADLINE_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Cohort:
    """Who may train, how many are sampled each round, and below how many nothing is folded."""

    members: tuple[str, ...]
    minimum: int
    size: int

    @classmethod
    def read(cls, value: Any) -> Cohort:
        """``plan.cohort``: 2 <= minimum <= size <= the number of members."""
        with Fields(value, "plan.cohort") as fields:
            members = read_members(fields, "members", low=2, high=MAX_COHORT)
            minimum = fields.integer("minimum", low=2, high=MAX_COHORT)
            size = fields.integer("size", low=2, high=MAX_COHORT)
        rule(minimum <= size, "plan.cohort.minimum", "at most plan.cohort.size expected")
        rule(size <= len(members), "plan.cohort.size", "at most the number of members expected")
        return cls(members, minimum, size)

    def to_json(self) -> dict[str, Any]:
        """``plan.cohort``."""
        return {"members": list(self.members), "minimum": self.minimum, "size": self.size}


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a round, a lease and an attestation last, in seconds.

    A lease is renewed by attestation alone, so everybody is attested again before it ends.
    """

    round_s: int
    lease_s: int
    reattest_s: int

    @classmethod
    def read(cls, value: Any) -> Deadlines:
        """``plan.deadlines``."""
        with Fields(value, "plan.deadlines") as fields:
            deadlines = cls(*(fields.integer(key, low=1, high=MAX_DEADLINE_S) for key in cls.__slots__))
        at_most = "less than plan.deadlines.lease_s expected, half of it for instance: attestation renews a lease"
        rule(deadlines.reattest_s < deadlines.lease_s, "plan.deadlines.reattest_s", at_most)
        return deadlines

    def to_json(self) -> dict[str, Any]:
        """``plan.deadlines``."""
        return {"round_s": self.round_s, "lease_s": self.lease_s, "reattest_s": self.reattest_s}
