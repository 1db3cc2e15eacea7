"""Logs and witnesses of one run, as an aggregator and its members' workers hold them."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.ledger import leaves
from trusted.ledger.checkpoint import Checkpoint, Quorum, TreeHead, origin_of
from trusted.ledger.merkle import Tree
from trusted.ledger.notes import Note
from trusted.ledger.witness import Epoch, Proposal, WitnessRecord, begin
from trusted.wire import sha256

PLAN = sha256(b"a plan")
ORIGIN = origin_of(PLAN)
LOG_KEY = Ed25519PrivateKey.from_private_bytes(sha256(b"the log"))
LOG_PUBLIC = LOG_KEY.public_key().public_bytes_raw()
MEMBERS = ("site-1", "site-2", "site-3", "site-4", "site-5")
SECRETS = {member: Ed25519PrivateKey.from_private_bytes(sha256(member.encode())) for member in MEMBERS}
KEYS = {member: [secret.public_key().public_bytes_raw()] for member, secret in SECRETS.items()}
QUORUM = Quorum(MEMBERS, 3)
NOW_S = 1_790_000_000


def epoch(number: int, who: str = "a") -> Epoch:
    return Epoch(number, sha256(who.encode())[:16])


def sealed_state(sequence: int) -> bytes:
    return b"sealed state %d" % sequence


def state(sequence: int, salt: bytes = b"") -> bytes:
    return leaves.encode(leaves.State(sequence, bytes(16), sha256(sealed_state(sequence) + salt)))


def fresh() -> WitnessRecord:
    return begin(ORIGIN, LOG_PUBLIC)


@dataclass
class Log:
    """The leaves, and the tree over them."""

    leaves: list[bytes] = field(default_factory=list)
    tree: Tree = field(default_factory=Tree)

    def add(self, *more: bytes) -> Log:
        for leaf in more:
            self.tree.append(leaf)
            self.leaves.append(leaf)
        return self

    def branch(self, size: int) -> Log:
        return Log().add(*self.leaves[:size])

    def head(self, size: int | None = None) -> TreeHead:
        size = self.tree.size if size is None else size
        return TreeHead(size, self.tree.root(size))

    def note(self, size: int | None = None, key: Ed25519PrivateKey = LOG_KEY, origin: str = ORIGIN) -> Note:
        return Checkpoint(origin, self.head(size)).sign(key)

    def proposal(self, at: Epoch, base: int, size: int | None = None) -> Proposal:
        size = self.tree.size if size is None else size
        return Proposal(
            epoch=at,
            note=self.note(size).encode(),
            last_leaf=self.leaves[size - 1],
            inclusion=self.tree.inclusion_proof(size - 1, size),
            consistency=self.tree.consistency_proof(min(base, size), size),
        )


def states(*sequences: int, salt: bytes = b"") -> Log:
    return Log().add(*(state(sequence, salt) for sequence in sequences))


def cosigned(note: Note, *members: str, secrets: dict[str, Ed25519PrivateKey] = SECRETS) -> Note:
    checkpoint = Checkpoint.parse(note.text)
    return note.with_signatures(*(checkpoint.cosign(one, secrets[one], time_s=NOW_S) for one in members))
