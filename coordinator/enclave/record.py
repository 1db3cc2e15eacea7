"""What of a run must outlive its aggregator: a small record, sealed by it and kept by the host (docs/protocol.md §13).

Trust zone: aggregator TEE. Rules: the record names blobs and holds their keys; the model itself is not copied into it,
because the host holds it sealed already. It opens under the run's recovery key, which attested workers remember, for
its own plan and number alone. That it is the newest one is for the witnesses to say (:mod:`trusted.ledger`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from secrets import token_bytes
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from coordinator.enclave.fold import Contribution
from trusted.blob import BlobHeader, BlobKind, ContentKey
from trusted.errors import Reason, StateError, WireError
from trusted.exchange import AGGREGATOR, Exchanged
from trusted.wire import Fields, decode_json, encode_json, exactly, pack, unpack

SECRET_BYTES = 32
MAX_SEALED_BYTES = 16 << 20  # a round of 1024 members, with a key and metrics for each, and a model card
_LABEL = "cloister/run-state/v1"
_NOTE_LABEL = "cloister/closing-note/v1"
_NONCE_BYTES = 12
_MAX_ROUND = 1 << 31
_MAX_MOMENTS = 2


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """The secret of one run, 32 bytes: whoever has it can open the run's state, and sign for its log."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> RecoveryKey:
        """For a run that begins."""
        return cls(token_bytes(SECRET_BYTES))

    def log_key(self, plan: bytes) -> Ed25519PrivateKey:
        """The key that signs the log of ``plan``."""
        return Ed25519PrivateKey.from_private_bytes(self._derive(pack("cloister/log-key/v1", plan)))

    def seal(self, plan: bytes, sequence: int, content: bytes) -> bytes:
        """``content`` as number ``sequence`` of the states of ``plan``."""
        return self._seal(_LABEL, _context(plan, sequence), content)

    def open(self, plan: bytes, sequence: int, sealed: bytes) -> bytes:
        """What :meth:`seal` was given.

        Raises:
            StateError: SEALED_STATE: of another run, plan or number, or altered.
        """
        return self._open(_LABEL, _context(plan, sequence), sealed)

    def seal_note(self, plan: bytes, content: bytes) -> bytes:
        """``content`` as the closing note of ``plan`` (:mod:`coordinator.enclave.closing`)."""
        return self._seal(_NOTE_LABEL, pack("cloister/closing-note-context/v1", plan), content)

    def open_note(self, plan: bytes, sealed: bytes) -> bytes:
        """What :meth:`seal_note` was given.

        Raises:
            StateError: SEALED_STATE: of another run or plan, or altered.
        """
        return self._open(_NOTE_LABEL, pack("cloister/closing-note-context/v1", plan), sealed)

    def _seal(self, label: str, context: bytes, content: bytes) -> bytes:
        nonce = token_bytes(_NONCE_BYTES)
        return pack(label, nonce, AESGCM(self._derive(context)).encrypt(nonce, content, context))

    def _open(self, label: str, context: bytes, sealed: bytes) -> bytes:
        try:
            nonce, ciphertext = unpack(sealed, label, 2, max_bytes=MAX_SEALED_BYTES)
            return AESGCM(self._derive(context)).decrypt(exactly(nonce, _NONCE_BYTES, "nonce"), ciphertext, context)
        except (WireError, InvalidTag):
            raise StateError(Reason.SEALED_STATE, "state: of another run, or altered") from None

    def _derive(self, info: bytes) -> bytes:
        return HKDF(SHA256(), 32, None, info).derive(self.secret)


def _context(plan: bytes, sequence: int) -> bytes:
    return pack("cloister/run-state-context/v1", plan, sequence.to_bytes(8, "big"))


@dataclass(frozen=True, slots=True)
class SealedVector:
    """A blob that an aggregator of this run sealed: where it lies, what opens it, and whose signature it carries."""

    blob: bytes
    key: ContentKey = field(repr=False)
    kind: BlobKind
    round: int
    signer: bytes

    def header(self, exchanged: Exchanged) -> BlobHeader:
        """The one header that it has."""
        return exchanged.header(self.kind, self.round, AGGREGATOR)

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {
            "blob": self.blob.hex(),
            "key": self.key.secret.hex(),
            "kind": self.kind.value,
            "round": self.round,
            "signer": self.signer.hex(),
        }

    @classmethod
    def read(cls, value: Any) -> SealedVector:
        """From a record."""
        with Fields(value, "state.sealed") as fields:
            return cls(
                blob=fields.octets("blob", 16),
                key=ContentKey(fields.octets("key", 32)),
                kind=BlobKind(fields.choice("kind", [kind.value for kind in BlobKind])),
                round=fields.integer("round", low=0, high=_MAX_ROUND),
                signer=fields.octets("signer", 32),
            )


@dataclass(frozen=True, slots=True)
class Paid:
    """For how many closed rounds the run has paid with privacy; the secret that their noise follows from, 32 bytes."""

    rounds: int
    secret: bytes = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {"rounds": self.rounds, "secret": self.secret.hex()}

    @classmethod
    def read(cls, value: Any) -> Paid:
        """From a record."""
        with Fields(value, "state.privacy") as fields:
            return cls(fields.integer("rounds", low=0, high=_MAX_ROUND), fields.octets("secret", SECRET_BYTES))


@unique
class Phase(Enum):
    """Where the newest round stood: it is open to its cohort, or it is fixed which contributions it folds."""

    COLLECTING = "collecting"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Counted:
    """A contribution that the closed round folds, and the metrics that came with it."""

    contribution: Contribution
    metrics: Mapping[str, float]

    @property
    def prefix_sha256(self) -> bytes:
        """By what the log names it."""
        if self.contribution.prefix_sha256 is None:
            raise RuntimeError("an update is counted by its prefix")
        return self.contribution.prefix_sha256

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        given = self.contribution
        return {
            "member": given.member,
            "weight": given.weight,
            "blob": given.blob.hex(),
            "key": given.key.secret.hex(),
            "verify_key": given.verify_key.hex(),
            "prefix_sha256": self.prefix_sha256.hex(),
            "metrics": dict(self.metrics),
        }

    @classmethod
    def read(cls, value: Any, exchanged: Exchanged, number: int) -> Counted:
        """From a record of round ``number``."""
        with Fields(value, "state.counted") as fields:
            member = fields.text("member", max_length=64)
            given = Contribution(
                member=member,
                weight=fields.integer("weight", low=1, high=1 << 53),
                blob=fields.octets("blob", 16),
                header=exchanged.header(BlobKind.UPDATE, number, member),
                key=ContentKey(fields.octets("key", 32)),
                verify_key=fields.octets("verify_key", 32),
                prefix_sha256=fields.octets("prefix_sha256", 32),
            )
            metrics = fields.mapping("metrics")
        return cls(given, {name: float(metrics[name]) for name in metrics})


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run between two steps; whatever follows from it is computed again, to the same bits.

    Attributes:
        phase: of round ``number``.
        number: of the newest round that was opened.
        abandoned_in_a_row: how many before it came to nothing.
        seed: 32 bytes, from which cohorts and upload names are drawn.
        sent: the model that the round's cohort starts from, as it gets it.
        kept: the same, never rounded.
        moments: what the plan's server optimiser remembers at that model, in its order.
        base: the whole initial model, where the plan exchanges a part of it.
        cohort: who was drawn.
        counted, lost: what a closed round folds, and who is not in it and why.
        paid: with privacy, where the plan has a mechanism; of a closed round that round is among it.
        card: the model card that is to be released and no other, once there is one.
    """

    phase: Phase
    number: int
    abandoned_in_a_row: int
    seed: bytes = field(repr=False)
    sent: SealedVector
    kept: SealedVector
    moments: tuple[SealedVector, ...]
    base: SealedVector | None
    cohort: tuple[str, ...]
    counted: tuple[Counted, ...] = ()
    lost: Mapping[str, Reason] = field(default_factory=dict)
    paid: Paid | None = None
    card: bytes | None = field(default=None, repr=False)

    def encode(self) -> bytes:
        """Canonical bytes, to be sealed."""
        return encode_json(
            {
                "phase": self.phase.value,
                "number": self.number,
                "abandoned_in_a_row": self.abandoned_in_a_row,
                "seed": self.seed.hex(),
                "sent": self.sent.to_json(),
                "kept": self.kept.to_json(),
                "moments": [moment.to_json() for moment in self.moments],
                "base": None if self.base is None else self.base.to_json(),
                "cohort": list(self.cohort),
                "counted": [entry.to_json() for entry in self.counted],
                "lost": {member: int(reason) for member, reason in self.lost.items()},
                **({} if self.paid is None else {"privacy": self.paid.to_json()}),
                **({} if self.card is None else {"card": self.card.decode()}),
            }
        )

    @classmethod
    def decode(cls, data: bytes, exchanged: Exchanged) -> RunRecord:
        """The record in ``data``, which an aggregator of this plan wrote.

        Raises:
            WireError: no record of this version.
        """
        with Fields(decode_json(data, max_bytes=MAX_SEALED_BYTES), "state") as fields:
            number = fields.integer("number", low=1, high=_MAX_ROUND)
            base = fields.take("base", dict, type(None))
            lost = fields.mapping("lost")
            return cls(
                phase=Phase(fields.choice("phase", [phase.value for phase in Phase])),
                number=number,
                abandoned_in_a_row=fields.integer("abandoned_in_a_row", low=0, high=1 << 16),
                seed=fields.octets("seed", SECRET_BYTES),
                sent=SealedVector.read(fields.mapping("sent")),
                kept=SealedVector.read(fields.mapping("kept")),
                moments=tuple(map(SealedVector.read, fields.items("moments", max_items=_MAX_MOMENTS))),
                base=None if base is None else SealedVector.read(base),
                cohort=tuple(str(member) for member in fields.items("cohort", max_items=1024)),
                counted=tuple(
                    Counted.read(entry, exchanged, number) for entry in fields.items("counted", max_items=1024)
                ),
                lost={member: Reason(int(lost[member])) for member in lost},
                paid=Paid.read(fields.mapping("privacy")) if fields.has("privacy") else None,
                card=fields.take("card", str).encode() if fields.has("card") else None,
            )
