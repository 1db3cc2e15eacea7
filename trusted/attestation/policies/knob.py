"""A knob: one field of a platform's policy, and how its value reads and writes. Trust zone: every TEE.

Unset refuses: a policy without one of its knobs does not read. Not using a knob is written down, ``{"skip": "why"}``,
and reported in every result (the idea is Oak's).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

from trusted.attestation.policies import rules
from trusted.attestation.policies.rules import Demand, Permission, Skip
from trusted.attestation.roots import Assurance
from trusted.errors import Reason, WireError
from trusted.wire import Fields, Json, encode_json, sha256


@dataclass(frozen=True, slots=True)
class Knob:
    """One field of a policy: its meaning, and how its value reads and writes.

    Two knobs cannot be skipped, for an appraisal without them would say nothing: ``measurements`` and ``assurance``.
    """

    name: str
    meaning: str
    read: Callable[[Fields, str], Any]
    write_value: Callable[[Any], Json]
    may_skip: bool = True

    def read_from(self, fields: Fields, value: Any) -> Any:
        """The knob's value, or its skip, in ``fields``, which reads the object ``value``."""
        skip = rules.read_skip(value.get(self.name), fields.path(self.name))
        if skip is None:
            return self.read(fields, self.name)
        if not self.may_skip:
            raise WireError(Reason.POLICY_UNSET, f"{fields.path(self.name)}: cannot be skipped; set a value")
        fields.take(self.name, dict)
        return skip

    def write(self, value: Any) -> Json:
        """The JSON form of a value or a skip."""
        return {"skip": value.why} if isinstance(value, Skip) else self.write_value(value)


def integer(low: int, high: int) -> Callable[[Fields, str], int]:
    return lambda fields, key: fields.integer(key, low=low, high=high)


def octets(size: int) -> Callable[[Fields, str], bytes]:
    return lambda fields, key: fields.octets(key, size)


def octets_list(size: int) -> Callable[[Fields, str], tuple[bytes, ...]]:
    return lambda fields, key: rules.read_octets(fields, key, size)


def read_assurance(fields: Fields, key: str) -> Assurance:
    return Assurance(fields.choice(key, [item.value for item in Assurance]))


def number(value: int) -> Json:
    return value


def listed(value: tuple[str, ...]) -> Json:
    return list(value)


def value_of(item: Permission | Demand | Assurance) -> Json:
    return str(item.value)


def hexadecimal(value: bytes) -> Json:
    return value.hex()


def measurements(size: int, what: str) -> Knob:
    """The knob that no platform may skip: reference values of ``size`` bytes for ``what`` runs."""
    return Knob(
        "measurements",
        f"what may run: [{{value: {what}, until: null or the end of an overlap window}}]",
        lambda fields, key: rules.read_measurements(fields, key, size),
        rules.write_measurements,
        may_skip=False,
    )


ASSURANCE = Knob(
    "assurance",
    "what must stand behind it: possession (hardware on the list of machines), hardware, provider, or none (software)",
    read_assurance,
    value_of,
    may_skip=False,
)


class PlatformPolicy(Protocol):
    """What one platform's evidence must say. Each is a frozen dataclass with a field for each of its ``KNOBS``."""

    KNOBS: ClassVar[tuple[Knob, ...]]

    @classmethod
    def from_json(cls, value: Any, name: str = "policy") -> Self:
        """The policy in the JSON object ``value``; ``name`` leads the errors."""
        ...

    def to_json(self) -> dict[str, Json]:
        """The JSON object that :meth:`from_json` reads."""
        ...

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON: names this policy in results."""
        ...


class KnobbedPolicy:
    """The reading and writing that every platform's policy shares; its subclass is a dataclass of its knobs."""

    KNOBS: ClassVar[tuple[Knob, ...]]

    @classmethod
    def from_json(cls, value: Any, name: str = "policy") -> Self:
        """The policy in the JSON object ``value``; ``name`` leads the errors.

        Raises:
            WireError: MISSING_FIELD, a knob is unset; POLICY_UNSET, a knob is skipped that cannot be;
                UNKNOWN_FIELD, WRONG_TYPE, MALFORMED.
        """
        with Fields(value, name) as fields:
            return cls(**{knob.name: knob.read_from(fields, value) for knob in cls.KNOBS})

    def to_json(self) -> dict[str, Json]:
        """The JSON object that :meth:`from_json` reads."""
        return {knob.name: knob.write(getattr(self, knob.name)) for knob in self.KNOBS}

    @cached_property  # a policy is frozen, and named in the result of every appraisal
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON: names this policy in results."""
        return sha256(encode_json(self.to_json()))
