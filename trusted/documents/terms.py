"""The terms of a plan, one type for each object inside it (docs/protocol.md §2). Trust zone: every TEE.

Each ``read`` refuses what is out of bounds, whoever signed it; the bounds stop a plan that no enclave could carry out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from trusted.documents.layout import MAX_TENSORS
from trusted.documents.schema import DIGEST_BYTES, matching, read_line, read_members, rule, unique
from trusted.encoding import Encoding
from trusted.errors import Reason, WireError
from trusted.wire import Fields

MAX_COHORT = 1024
MAX_DEADLINE_S = 30 * 86_400
MAX_ROWS = 10**12
MAX_WEIGHT = 1e9
_METRIC = re.compile(r"[a-z0-9_.-]{1,64}")
_CONFIG_KEY = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_MAX_CONFIG_TEXT = 1024
_UPDATE_ENCODINGS = [encoding.name.lower() for encoding in Encoding]
_MODEL_ENCODINGS = [encoding.name.lower() for encoding in (Encoding.FLOAT32, Encoding.BFLOAT16)]

Scalar = bool | int | float | str


class AppKind(Enum):
    """What kind of program trains."""

    FLOWER = "flower"


class Rule(Enum):
    """How updates become the next model."""

    WEIGHTED_MEAN = "weighted-mean"


class Mechanism(Enum):
    """What keeps one contribution from being told from the result."""

    NONE = "none"


@dataclass(frozen=True, slots=True)
class App:
    """The members' program: a Flower App Bundle by digest, and its run configuration."""

    kind: AppKind
    bundle_sha256: bytes
    config: tuple[tuple[str, Scalar], ...]  # sorted by key

    @classmethod
    def read(cls, value: Any) -> App:
        """``plan.app``. RFC 8785 writes 1.0 as 1: the app's own default decides whether a number is a float."""
        with Fields(value, "plan.app") as fields:
            kind = AppKind(fields.choice("kind", [kind.value for kind in AppKind]))
            bundle_sha256 = fields.octets("bundle_sha256", DIGEST_BYTES)
            config = fields.mapping("config")
        rule(len(config) <= 256, "plan.app.config", "at most 256 entries expected")
        entries = tuple((matching(key, _CONFIG_KEY, "plan.app.config"), _scalar(config[key])) for key in sorted(config))
        return cls(kind, bundle_sha256, entries)

    def to_json(self) -> dict[str, Any]:
        """``plan.app``."""
        return {"kind": self.kind.value, "bundle_sha256": self.bundle_sha256.hex(), "config": dict(self.config)}


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
    """How long a round, a lease and an attestation last, in seconds."""

    round_s: int
    lease_s: int
    reattest_s: int

    @classmethod
    def read(cls, value: Any) -> Deadlines:
        """``plan.deadlines``."""
        with Fields(value, "plan.deadlines") as fields:
            return cls(*(fields.integer(key, low=1, high=MAX_DEADLINE_S) for key in cls.__slots__))

    def to_json(self) -> dict[str, Any]:
        """``plan.deadlines``."""
        return {"round_s": self.round_s, "lease_s": self.lease_s, "reattest_s": self.reattest_s}


@dataclass(frozen=True, slots=True)
class Aggregation:
    """The rule of the fold; no update weighs more than ``max_weight``, so that no site drowns the others."""

    rule: Rule
    max_weight: float

    @classmethod
    def read(cls, value: Any) -> Aggregation:
        """``plan.aggregation``."""
        with Fields(value, "plan.aggregation") as fields:
            kind = Rule(fields.choice("rule", [kind.value for kind in Rule]))
            return cls(kind, fields.number("max_weight", low=1, high=MAX_WEIGHT))

    def to_json(self) -> dict[str, Any]:
        """``plan.aggregation``."""
        return {"rule": self.rule.value, "max_weight": self.max_weight}


@dataclass(frozen=True, slots=True)
class Exchange:
    """What travels each round, and how it is spelled (:mod:`trusted.encoding` states the errors).

    Attributes:
        model: of the round's model, FLOAT32 or BFLOAT16. The aggregator's own model stays in float32.
        update: of the updates, which are differences from the model that the worker was given.
        tensors: the names that are trained and exchanged, in the layout's order; empty: all of them. The others stay
            as the initial model has them, and travel once.
    """

    model: Encoding = Encoding.FLOAT32
    update: Encoding = Encoding.FLOAT32
    tensors: tuple[str, ...] = ()

    @classmethod
    def read(cls, value: Any) -> Exchange:
        """``plan.exchange``."""
        with Fields(value, "plan.exchange") as fields:
            model = fields.choice("model", _MODEL_ENCODINGS)
            update = fields.choice("update", _UPDATE_ENCODINGS)
            tensors = fields.items("tensors", max_items=MAX_TENSORS)
        rule(all(isinstance(name, str) for name in tensors), "plan.exchange.tensors", "names of the layout expected")
        return cls(Encoding[model.upper()], Encoding[update.upper()], tuple(tensors))

    def to_json(self) -> dict[str, Any]:
        """``plan.exchange``."""
        return {"model": self.model.name.lower(), "update": self.update.name.lower(), "tensors": list(self.tensors)}


@dataclass(frozen=True, slots=True)
class Privacy:
    """The privacy mechanism. ``NONE`` is written out, with the reason that the signers accept."""

    mechanism: Mechanism
    reason: str

    @classmethod
    def read(cls, value: Any) -> Privacy:
        """``plan.privacy``."""
        with Fields(value, "plan.privacy") as fields:
            mechanism = Mechanism(fields.choice("mechanism", [kind.value for kind in Mechanism]))
            return cls(mechanism, read_line(fields, "reason", max_length=500))

    def to_json(self) -> dict[str, Any]:
        """``plan.privacy``."""
        return {"mechanism": self.mechanism.value, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class DatasetContract:
    """What each site's data must be: at least ``min_rows`` rows, and these columns and no others."""

    min_rows: int
    columns: tuple[str, ...]

    @classmethod
    def read(cls, value: Any) -> DatasetContract:
        """``plan.dataset``."""
        with Fields(value, "plan.dataset") as fields:
            min_rows = fields.integer("min_rows", low=1, high=MAX_ROWS)
            return cls(min_rows, read_columns(fields, "columns", low=1))

    def to_json(self) -> dict[str, Any]:
        """``plan.dataset``."""
        return {"min_rows": self.min_rows, "columns": list(self.columns)}


@dataclass(frozen=True, slots=True)
class MetricRule:
    """A metric that may leave: averaged over at least ``min_sites`` sites, rounded to ``digits`` decimal places."""

    name: str
    min_sites: int
    digits: int

    @classmethod
    def read(cls, value: Any) -> MetricRule:
        """One entry of ``plan.metrics``."""
        with Fields(value, "plan.metrics") as fields:
            name = matching(fields.text("name"), _METRIC, fields.path("name"))
            min_sites = fields.integer("min_sites", low=2, high=MAX_COHORT)
            return cls(name, min_sites, fields.integer("digits", low=0, high=6))

    def to_json(self) -> dict[str, Any]:
        """One entry of ``plan.metrics``."""
        return {"name": self.name, "min_sites": self.min_sites, "digits": self.digits}


def read_columns(fields: Fields, key: str, *, low: int) -> tuple[str, ...]:
    """At least ``low`` different column names of visible characters."""
    values = fields.items(key)
    with Fields({str(place): value for place, value in enumerate(values)}, fields.path(key)) as entries:
        columns = tuple(read_line(entries, str(place), max_length=128) for place in range(len(values)))
    unique(columns, fields.path(key), low=low)
    return columns


def _scalar(value: Any) -> Scalar:
    if not isinstance(value, bool | int | float | str):
        raise WireError(Reason.WRONG_TYPE, "plan.app.config: true, false, a number or a string expected")
    if isinstance(value, str):
        rule(len(value) <= _MAX_CONFIG_TEXT, "plan.app.config", f"at most {_MAX_CONFIG_TEXT} characters expected")
    return value
