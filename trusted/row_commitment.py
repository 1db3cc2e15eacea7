"""A commitment to the rows that a worker admitted, which hides them and lets one row be shown (docs/protocol.md §5.1).

Trust zone: every TEE, the member's console, and auditors. Who offers a proof may be lying. Each leaf has a salt of its
own, so that a row that is shown says nothing about the others, and nobody can test a guess at a row against the ledger.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from trusted.errors import LedgerError, Reason
from trusted.ledger.merkle import (
    HASH_BYTES,
    MAX_PROOF_HASHES,
    MAX_SIZE,
    Frontier,
    Proof,
    Tree,
    leaf_hash,
    verify_inclusion,
)
from trusted.wire import Fields, decode_json, encode_json, exactly, length_prefixed, pack, sha256

SECRET_BYTES = 32
SALT_BYTES = 32
MAX_PROOF_BYTES = 1 << 22
_LABEL = "cloister/dataset/v2"
_ROW_LABEL = "cloister/dataset-row/v1"
_DERIVED_LABEL = "cloister/dataset-secret/v1"


def secret_of(data_key: bytes, plan: bytes) -> bytes:
    """The secret of a sealed file's rows under a plan (digest, 32 bytes): who has the file's key can prove its rows.

    Another plan, another secret: two ledgers do not show that a site used the same data.
    """
    info = pack(_DERIVED_LABEL, exactly(plan, HASH_BYTES, "plan digest"))
    return HKDFExpand(SHA256(), SECRET_BYTES, info).derive(exactly(data_key, 32, "data key"))


@dataclass(slots=True)
class RowCommitment:
    """Takes in admitted rows, in order. Its memory does not grow with them, unless ``keep`` asks for proofs.

    Attributes:
        columns: the plan's, which the fields of each row follow.
        secret: 32 random bytes that stay with the member.
    """

    columns: Sequence[str]
    secret: bytes = field(repr=False)
    keep: bool = False
    _tree: Frontier | Tree = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"commitment secret: {SECRET_BYTES} bytes expected")
        self._tree = Tree() if self.keep else Frontier()

    def add(self, row: Sequence[str]) -> None:
        """Take in the next row, its fields in the order of ``columns``."""
        self._tree.append_hash(_leaf(self.salt(self._tree.size), row))

    def salt(self, index: int) -> bytes:
        """The salt of row ``index``, 32 bytes. Shown with that row, it opens no other one."""
        return hmac.digest(self.secret, index.to_bytes(8, "big"), "sha256")

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._tree.size

    def digest(self) -> bytes:
        """The commitment, 32 bytes."""
        return _commitment(self._tree.root(), self._tree.size, self.columns)

    def prove(self, index: int, row: Sequence[str]) -> RowProof:
        """That ``row`` is row ``index``.

        Raises:
            ValueError: no such row, or nothing was kept: a bug of the caller.
        """
        if not isinstance(self._tree, Tree):
            raise ValueError("a commitment that keeps nothing proves nothing")
        path, root = self._tree.inclusion_proof(index), self._tree.root()
        return RowProof(tuple(self.columns), tuple(row), index, self.rows, self.salt(index), path, root)


@dataclass(frozen=True, slots=True)
class RowProof:
    """One row of a data set, shown to somebody, and the way from it to the commitment. It holds the row in clear."""

    columns: tuple[str, ...]
    row: tuple[str, ...] = field(repr=False)
    index: int
    rows: int
    salt: bytes = field(repr=False)
    path: Proof
    root: bytes

    def encode(self) -> bytes:
        """Canonical JSON."""
        return encode_json(
            {
                "columns": list(self.columns),
                "row": list(self.row),
                "index": self.index,
                "rows": self.rows,
                "salt": self.salt.hex(),
                "path": [one.hex() for one in self.path],
                "root": self.root.hex(),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> RowProof:
        """The proof that ``data`` spells; nothing of it is verified."""
        with Fields(decode_json(data, max_bytes=MAX_PROOF_BYTES), "proof") as fields:
            return cls(
                columns=_texts(fields, "columns"),
                row=_texts(fields, "row"),
                index=fields.integer("index", low=0, high=MAX_SIZE),
                rows=fields.integer("rows", low=1, high=MAX_SIZE),
                salt=fields.octets("salt", SALT_BYTES),
                path=_path(fields),
                root=fields.octets("root", HASH_BYTES),
            )

    def verify(self, commitment: bytes) -> None:
        """Refuse unless this row is part of the data set that ``commitment`` (32 bytes, from a ledger) stands for.

        Raises:
            LedgerError: DATA_PROOF.
        """
        if len(self.row) != len(self.columns):
            raise LedgerError(Reason.DATA_PROOF, "proof.row: one field for each column expected")
        if not hmac.compare_digest(_commitment(self.root, self.rows, self.columns), commitment):
            raise LedgerError(Reason.DATA_PROOF, "proof: another root, columns or number of rows than was committed to")
        leaf = _leaf(self.salt, self.row)
        try:
            verify_inclusion(self.path, index=self.index, size=self.rows, leaf=leaf, root=self.root)
        except LedgerError:
            raise LedgerError(Reason.DATA_PROOF, "proof: this row is not at this place of the data set") from None


def _leaf(salt: bytes, row: Sequence[str]) -> bytes:
    return leaf_hash(pack(_ROW_LABEL, salt, length_prefixed(*(text.encode() for text in row))))


def _commitment(root: bytes, rows: int, columns: Sequence[str]) -> bytes:
    """A root binds neither the number of its leaves nor what they mean; this does."""
    names = length_prefixed(*(name.encode() for name in columns))
    return sha256(pack(_LABEL, root, rows.to_bytes(8, "big"), names))


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    values = fields.items(key)
    with Fields({str(place): value for place, value in enumerate(values)}, fields.path(key)) as each:
        return tuple(str(each.take(str(place), str)) for place in range(len(values)))


def _path(fields: Fields) -> Proof:
    hashes = fields.items("path", max_items=MAX_PROOF_HASHES)
    with Fields({str(place): value for place, value in enumerate(hashes)}, fields.path("path")) as each:
        return tuple(each.octets(str(place), HASH_BYTES) for place in range(len(hashes)))
