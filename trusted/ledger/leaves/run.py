"""Leaves about the run: its state, its budget, what it released, how it ended. Trust zone: every TEE."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, unique
from typing import Any, ClassVar

from trusted.documents.schema import matching, read_line, read_members
from trusted.errors import Reason, WireError
from trusted.ledger.leaves.form import DIGEST_BYTES, MAX_MEMBERS, NAME_BYTES
from trusted.ledger.merkle import MAX_SIZE
from trusted.wire import Fields

MAX_EPOCH = 1 << 31
MAX_SEQUENCE = 1 << 40
_MAX_AMOUNTS = 16
_AMOUNT = re.compile(r"[a-z][a-z0-9_]{0,31}")
_DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,24})?(?:e-?[0-9]{1,3})?")


@unique
class Outcome(Enum):
    """How a run ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class State:
    """The aggregator's sealed state, which the host stores under ``blob``. Each cosigned checkpoint ends with one."""

    KIND: ClassVar[str] = "state"
    sequence: int
    blob: bytes
    sealed_sha256: bytes

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {"sequence": self.sequence, "blob": self.blob.hex(), "sealed_sha256": self.sealed_sha256.hex()}

    @classmethod
    def read(cls, fields: Fields) -> State:
        """The leaf in ``fields``."""
        return cls(
            sequence=fields.integer("sequence", low=0, high=MAX_SEQUENCE),
            blob=fields.octets("blob", NAME_BYTES),
            sealed_sha256=fields.octets("sealed_sha256", DIGEST_BYTES),
        )


@dataclass(frozen=True, slots=True)
class Recovered:
    """A new aggregator went on, from the log of ``from_size`` leaves."""

    KIND: ClassVar[str] = "recovered"
    epoch: int
    boot: bytes
    from_size: int

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {"epoch": self.epoch, "boot": self.boot.hex(), "from_size": self.from_size}

    @classmethod
    def read(cls, fields: Fields) -> Recovered:
        """The leaf in ``fields``."""
        return cls(
            epoch=fields.integer("epoch", low=1, high=MAX_EPOCH),
            boot=fields.octets("boot", NAME_BYTES),
            from_size=fields.integer("from_size", low=0, high=MAX_SIZE),
        )


@dataclass(frozen=True, slots=True)
class ServerApp:
    """The trusted code base is larger by an app: its own server runs in the aggregator (docs/server-apps.md).

    ``bundle_sha256`` is of the bundle that was unpacked there, ``component`` what was loaded of it, ``flower`` the
    version of flwr that ran it, by the aggregator's own word.
    """

    KIND: ClassVar[str] = "server-app"
    bundle_sha256: bytes
    component: str
    flower: str

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {"bundle_sha256": self.bundle_sha256.hex(), "component": self.component, "flower": self.flower}

    @classmethod
    def read(cls, fields: Fields) -> ServerApp:
        """The leaf in ``fields``."""
        return cls(
            bundle_sha256=fields.octets("bundle_sha256", DIGEST_BYTES),
            component=read_line(fields, "component", max_length=256),
            flower=read_line(fields, "flower", max_length=32),
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """What privacy has cost so far, in all: decimals by name, such as ``epsilon`` and ``delta``. Before any release."""

    KIND: ClassVar[str] = "spent"
    mechanism: str
    cumulative: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {"mechanism": self.mechanism, "cumulative": dict(self.cumulative)}

    @classmethod
    def read(cls, fields: Fields) -> Spent:
        """The leaf in ``fields``."""
        mechanism = read_line(fields, "mechanism")
        amounts = Fields(fields.mapping("cumulative"), "leaf.cumulative")
        names = amounts.names()
        if not 0 < len(names) <= _MAX_AMOUNTS:
            raise WireError(Reason.MALFORMED, f"leaf.cumulative: 1 to {_MAX_AMOUNTS} amounts expected")
        return cls(
            mechanism,
            tuple(
                (matching(name, _AMOUNT, "leaf.cumulative"), matching(amounts.text(name), _DECIMAL, "leaf.cumulative"))
                for name in names
            ),
        )


@dataclass(frozen=True, slots=True)
class Released:
    """The model was released: its digest, the blob that holds it sealed, who can open it, and its card's digest."""

    KIND: ClassVar[str] = "released"
    model_sha256: bytes
    blob: bytes
    recipients: tuple[str, ...]
    card_sha256: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {
            "model_sha256": self.model_sha256.hex(),
            "blob": self.blob.hex(),
            "recipients": list(self.recipients),
            **({} if self.card_sha256 is None else {"card_sha256": self.card_sha256.hex()}),
        }

    @classmethod
    def read(cls, fields: Fields) -> Released:
        """The leaf in ``fields``."""
        return cls(
            model_sha256=fields.octets("model_sha256", DIGEST_BYTES),
            blob=fields.octets("blob", NAME_BYTES),
            recipients=read_members(fields, "recipients", low=1, high=MAX_MEMBERS),
            card_sha256=fields.octets("card_sha256", DIGEST_BYTES) if fields.has("card_sha256") else None,
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """The last leaf. The seed of the sampling is public from now on, so that every cohort can be drawn again."""

    KIND: ClassVar[str] = "ended"
    outcome: Outcome
    seed: bytes

    def to_json(self) -> dict[str, Any]:
        """The fields, without ``kind``."""
        return {"outcome": self.outcome.value, "seed": self.seed.hex()}

    @classmethod
    def read(cls, fields: Fields) -> Ended:
        """The leaf in ``fields``."""
        return cls(
            outcome=Outcome(fields.choice("outcome", [one.value for one in Outcome])),
            seed=fields.octets("seed", DIGEST_BYTES),
        )
