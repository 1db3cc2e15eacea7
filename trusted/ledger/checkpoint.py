"""Checkpoints (c2sp.org/tlog-checkpoint): how large a log is, and its root, signed by the log. Trust zone: every TEE.

The log of a run is named ``cloister/<plan digest>``; its key signs under that name, and the worker of a member cosigns
under ``cloister/<plan digest>/<member>``. There are no extension lines: nothing is signed that cannot be checked.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.errors import LedgerError, Reason
from trusted.ledger import notes
from trusted.ledger.merkle import EMPTY_ROOT, HASH_BYTES, MAX_SIZE
from trusted.ledger.notes import Note, NoteSignature, SignatureType, VerifierKey

_ORIGIN = re.compile(r"cloister/[0-9a-f]{64}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,12}")


def origin_of(plan: bytes) -> str:
    """The name of the log of the plan with this digest."""
    return f"cloister/{plan.hex()}"


def require_origin(origin: str) -> None:
    """Refuse what is no run's log.

    Raises:
        LedgerError: MALFORMED.
    """
    if not _ORIGIN.fullmatch(origin):
        raise _malformed("the origin of a run's log expected")


def log_key(origin: str, public_key: bytes) -> VerifierKey:
    """The key (Ed25519, 32 bytes) that signs the log's checkpoints."""
    return VerifierKey(origin, SignatureType.ED25519, public_key)


def witness_key(origin: str, member: str, public_key: bytes) -> VerifierKey:
    """The key (Ed25519, 32 bytes) with which the worker of ``member`` cosigns."""
    return VerifierKey(f"{origin}/{member}", SignatureType.COSIGNATURE, public_key)


@dataclass(frozen=True, slots=True)
class TreeHead:
    """How many leaves a log has, and the root over them, 32 bytes."""

    size: int
    root: bytes

    def __str__(self) -> str:
        return f"size {self.size}, root {self.root.hex()}"


EMPTY = TreeHead(0, EMPTY_ROOT)


class Diverged(LedgerError):
    """Two checkpoints of one log that cannot both be true. Whoever can sign for the log, or serves it, is caught.

    Both are public, and named: ``held`` is what stands here, ``offered`` what came.
    """

    def __init__(self, reason: Reason, detail: str, *, held: TreeHead, offered: TreeHead) -> None:
        super().__init__(reason, f"{detail} (held: {held}; offered: {offered})")
        self.held = held
        self.offered = offered


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself at one moment. Unsigned as such: see :class:`VerifiedCheckpoint`."""

    origin: str
    head: TreeHead

    @property
    def text(self) -> str:
        """The note's text: three lines."""
        return f"{self.origin}\n{self.head.size}\n{b64encode(self.head.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint in a note's text.

        Raises:
            LedgerError: MALFORMED.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise _malformed("three lines expected")
        origin, size, root = lines[:3]
        require_origin(origin)
        if not _SIZE.fullmatch(size) or int(size) > MAX_SIZE:
            raise _malformed("a size expected")
        try:
            raw = b64decode(root, validate=True)
        except ValueError:
            raise _malformed("a root in base64 expected") from None
        if len(raw) != HASH_BYTES or b64encode(raw).decode() != root:
            raise _malformed("a root of 32 bytes expected")
        if size == "0" and raw != EMPTY_ROOT:
            raise _malformed("the root of an empty log expected")
        return cls(origin, TreeHead(int(size), raw))

    def sign(self, key: Ed25519PrivateKey) -> Note:
        """The checkpoint, signed by the log's ``key``."""
        return Note(self.text, (notes.sign(self.text, self.origin, key),))

    def cosign(self, member: str, key: Ed25519PrivateKey, *, time_s: int) -> NoteSignature:
        """The line by which the worker of ``member`` cosigns, after :func:`trusted.ledger.witness.witness` let it."""
        return notes.cosign(self.text, f"{self.origin}/{member}", key, time_s=time_s)


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint that the log's key signed, and the note that shows it."""

    checkpoint: Checkpoint
    note: Note

    @property
    def head(self) -> TreeHead:
        """Its size and root."""
        return self.checkpoint.head


def verify_checkpoint(data: bytes, key: VerifierKey) -> VerifiedCheckpoint:
    """The checkpoint in the note ``data``, which anybody may have sent, of the log whose key is ``key``.

    Raises:
        LedgerError: MALFORMED, TOO_LARGE, or LEDGER_SIGNATURE: of another log, or not signed by its key.
    """
    note = Note.parse(data)
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != key.name:
        raise LedgerError(Reason.LEDGER_SIGNATURE, "checkpoint: of another log")
    note.signers([key])
    return VerifiedCheckpoint(checkpoint, note)


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many members of ``members`` must have cosigned.

    More than half of them, always: then two quorums share a member, and two forks cannot both have one.
    """

    members: tuple[str, ...]
    needed: int

    def __post_init__(self) -> None:
        count = len(self.members)
        if len(set(self.members)) != count or not count < 2 * self.needed <= 2 * count:
            raise LedgerError(Reason.LEDGER_QUORUM, "quorum: more than half of different members expected")

    def require(self, present: frozenset[str], what: str) -> None:
        """Refuse unless enough of the members are among ``present``.

        Raises:
            LedgerError: LEDGER_QUORUM.
        """
        if len(present & set(self.members)) < self.needed:
            raise LedgerError(Reason.LEDGER_QUORUM, f"{what}: not a quorum of the witnesses")

    def require_cosigned(self, verified: VerifiedCheckpoint, keys: Mapping[str, Sequence[bytes]]) -> frozenset[str]:
        """The members who cosigned, a quorum of them; ``keys`` are each one's Ed25519 keys. It counts members.

        Raises:
            LedgerError: LEDGER_QUORUM; LEDGER_SIGNATURE: a line of a known key does not verify.
        """
        origin = verified.checkpoint.origin
        owners = {witness_key(origin, member, one): member for member in self.members for one in keys.get(member, ())}
        if len({key.public_key for key in owners}) != len(owners):
            raise LedgerError(Reason.LEDGER_QUORUM, "quorum: one key speaks for two members")
        named = [key for key in owners if any(line.is_of(key) for line in verified.note.signatures)]
        signers = verified.note.signers(named) if named else frozenset()
        present = frozenset(owners[key] for key in signers)
        self.require(present, "checkpoint")
        return present


def _malformed(expected: str) -> LedgerError:
    return LedgerError(Reason.MALFORMED, f"checkpoint: {expected}")
