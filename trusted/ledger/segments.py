"""The log as it is stored: segments that name the one before. Trust zone: every TEE, consoles and auditors.

A segment holds the leaves between two checkpoints. Its name follows from the later one, so whoever knows a checkpoint
finds the whole log behind it, and segments of forked logs never share a name. The host may hold back any of them, and
may put anything in their place: only a root that fits makes leaves count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trusted.errors import LedgerError, Reason, WireError
from trusted.ledger.checkpoint import EMPTY, Diverged, TreeHead
from trusted.ledger.leaves import MAX_LEAF_BYTES
from trusted.ledger.merkle import HASH_BYTES, MAX_SIZE, Tree
from trusted.ledger.notes import MAX_NOTE_BYTES
from trusted.wire import length_prefixed, pack, sha256, split_items, unpack

MAX_SEGMENT_BYTES = 16 << 20
MAX_SEGMENTS = 1 << 17
_MAX_LEAVES = 1 << 16
_LABEL = "cloister/ledger-segment/v1"
_SIZE_BYTES = 8


def segment_name(plan: bytes, head: TreeHead) -> bytes:
    """The blob name (16 bytes) of the segment that ends at ``head``."""
    return sha256(pack("cloister/ledger-segment-name/v1", plan, _encode_head(head)))[:16]


def certificate_name(plan: bytes, head: TreeHead) -> bytes:
    """The blob name (16 bytes) of the note that certifies ``head``, while it is the newest that was told."""
    return sha256(pack("cloister/ledger-certificate-name/v1", plan, _encode_head(head)))[:16]


@dataclass(frozen=True, slots=True)
class Segment:
    """The leaves between ``before`` and the checkpoint that names the segment.

    ``certificate`` is the newest checkpoint that a quorum had cosigned when this was written, with their lines; empty
    if there was none.
    """

    before: TreeHead
    certificate: bytes
    leaves: tuple[bytes, ...]

    def encode(self) -> bytes:
        """As it is stored."""
        return pack(_LABEL, _encode_head(self.before), self.certificate, length_prefixed(*self.leaves))

    @classmethod
    def decode(cls, data: bytes) -> Segment:
        """The segment in ``data``, which anybody may have written.

        Raises:
            WireError: it is none.
        """
        before, certificate, listed = unpack(data, _LABEL, 3, max_bytes=MAX_SEGMENT_BYTES)
        leaves = split_items(listed, "segment.leaves", _MAX_LEAVES)
        if len(before) != _SIZE_BYTES + HASH_BYTES or len(certificate) > MAX_NOTE_BYTES:
            raise WireError(Reason.MALFORMED, "segment: a checkpoint and a certificate expected first")
        if any(len(leaf) > MAX_LEAF_BYTES for leaf in leaves):
            raise WireError(Reason.TOO_LARGE, f"segment: leaves of at most {MAX_LEAF_BYTES} bytes expected")
        size = int.from_bytes(before[:_SIZE_BYTES], "big")
        if size > MAX_SIZE:
            raise WireError(Reason.TOO_LARGE, "segment: no log is so large")
        return cls(TreeHead(size, before[_SIZE_BYTES:]), certificate, leaves)


@dataclass(frozen=True, slots=True)
class StoredLog:
    """A whole log, every leaf of it under the root that it was asked for by."""

    leaves: tuple[bytes, ...]
    certificates: tuple[bytes, ...]

    def tree(self) -> Tree:
        """Its hashes."""
        tree = Tree()
        for leaf in self.leaves:
            tree.append(leaf)
        return tree


def read_log(plan: bytes, head: TreeHead, read: Callable[[bytes], bytes]) -> StoredLog:
    """The log up to ``head``. ``read`` gives a stored segment by its name, empty where there is none.

    Raises:
        LedgerError: STATE_MISSING: a segment is not there. Diverged: STATE_ROLLBACK: it holds another log.
    """
    segments: list[Segment] = []
    at = head
    while at != EMPTY:
        stored = read(segment_name(plan, at))
        if not stored or len(segments) >= MAX_SEGMENTS:
            raise LedgerError(Reason.STATE_MISSING, f"log: no segment that ends at {at}; that at {head} was witnessed")
        try:
            segment = Segment.decode(stored)
        except WireError:
            raise _other(head, at) from None
        if segment.before.size + len(segment.leaves) != at.size or not segment.leaves:
            raise _other(head, at)
        segments.append(segment)
        at = segment.before
    segments.reverse()
    log = StoredLog(
        tuple(leaf for segment in segments for leaf in segment.leaves),
        tuple(segment.certificate for segment in segments if segment.certificate),
    )
    offered = TreeHead(len(log.leaves), log.tree().root())
    if offered != head:
        raise _other(head, offered)
    return log


def _other(head: TreeHead, offered: TreeHead) -> Diverged:
    return Diverged(Reason.STATE_ROLLBACK, "log: not the one that was witnessed", held=head, offered=offered)


def _encode_head(head: TreeHead) -> bytes:
    return head.size.to_bytes(_SIZE_BYTES, "big") + head.root
