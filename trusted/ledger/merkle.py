"""The Merkle tree of RFC 9162 §2.1 with SHA-256: proofs, and their verification. Trust zone: every TEE, and auditors.

A :class:`Tree` keeps the hash of every complete subtree, 64 bytes for each leaf, so that appending costs two hashes on
average and a proof O(log² n). Who offers a proof may be lying; what is verified holds for sizes and roots as given, and
a proof alone binds no size: sizes come from a signed checkpoint (:mod:`trusted.ledger.checkpoint`).
"""

from __future__ import annotations

from collections.abc import Sequence

from trusted.errors import LedgerError, Reason
from trusted.wire import exactly, sha256

HASH_BYTES = 32
MAX_SIZE = 1 << 40  # of a tree, in leaves; a proof then has at most 41 hashes
MAX_PROOF_HASHES = 41
EMPTY_ROOT = sha256(b"")

Proof = tuple[bytes, ...]


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of one leaf, 32 bytes."""
    return sha256(b"\x00" + leaf)


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees, 32 bytes. Another prefix than a leaf's, so that neither passes for the other."""
    return sha256(b"\x01" + left + right)


class Tree:
    """The hashes of a log. It only grows, and answers for every size that it has had."""

    def __init__(self) -> None:
        self._levels = [bytearray()]  # [h]: the roots of the complete subtrees of 2^h leaves, one after the other

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> int:
        """Add ``leaf``; its index."""
        return self.append_hash(leaf_hash(leaf))

    def append_hash(self, hashed: bytes) -> int:
        """Add a leaf by its hash, 32 bytes; its index."""
        index, node = self.size, exactly(hashed, HASH_BYTES, "leaf hash")
        height, position = 0, index
        self._levels[0] += node
        while position & 1:  # a right child completes its parent
            node = node_hash(self._complete(height, position - 1), node)
            height, position = height + 1, position >> 1
            if height == len(self._levels):
                self._levels.append(bytearray())
            self._levels[height] += node
        return index

    def hash_of(self, index: int) -> bytes:
        """The hash of leaf ``index``."""
        if not 0 <= index < self.size:
            raise ValueError("a leaf that the tree does not have")
        return self._complete(0, index)

    def root(self, size: int | None = None) -> bytes:
        """The root when the tree had ``size`` leaves; now, if none is given."""
        return self._subtree(0, self._known(size))

    def inclusion_proof(self, index: int, size: int | None = None) -> Proof:
        """PATH (RFC 9162 §2.1.3.1): that leaf ``index`` is in the tree of ``size`` leaves, nearest hash first."""
        start, end = 0, self._known(size)
        if not 0 <= index < end:
            raise ValueError("a leaf that the tree of this size does not have")
        path: list[bytes] = []
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        return tuple(reversed(path))

    def consistency_proof(self, old: int, new: int | None = None) -> Proof:
        """PROOF (RFC 9162 §2.1.4.1): the tree of ``new`` leaves extends that of ``old``; empty where that is."""
        start, end = 0, self._known(new)
        if not 0 <= old <= end:
            raise ValueError("a size that the tree has not had")
        if old in (0, end):
            return ()
        path: list[bytes] = []
        while old != end:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        if start:  # the verifier knows the old root itself, and needs the subtree only where it is not that
            path.append(self._subtree(start, end))
        return tuple(reversed(path))

    def _known(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise ValueError("a size that the tree has not had")
        return size

    def _complete(self, height: int, position: int) -> bytes:
        at = position * HASH_BYTES
        return bytes(self._levels[height][at : at + HASH_BYTES])

    def _subtree(self, start: int, end: int) -> bytes:
        """The hash of leaves [start, end); ``start`` is a multiple of the power of two that holds them."""
        count = end - start
        if count == 0:
            return EMPTY_ROOT
        if count & (count - 1) == 0:
            height = count.bit_length() - 1
            return self._complete(height, start >> height)
        middle = start + _split(count)
        return node_hash(self._subtree(start, middle), self._subtree(middle, end))


class Frontier:
    """The root of leaves that come one after the other, in memory that grows with the logarithm of their number.

    It gives no proofs; a :class:`Tree` of the same leaves has the same root, and gives them.
    """

    def __init__(self) -> None:
        self._peaks: list[bytes] = []  # the complete subtrees, largest first: one for each bit of ``size``
        self.size = 0

    def append_hash(self, hashed: bytes) -> None:
        """Add a leaf by its hash, 32 bytes."""
        node, position = exactly(hashed, HASH_BYTES, "leaf hash"), self.size
        while position & 1:  # a right child completes its parent
            node, position = node_hash(self._peaks.pop(), node), position >> 1
        self._peaks.append(node)
        self.size += 1

    def root(self) -> bytes:
        """The root as it is now."""
        if not self._peaks:
            return EMPTY_ROOT
        node = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            node = node_hash(peak, node)
        return node


def _split(count: int) -> int:
    """The largest power of two below ``count``, which is 2 at least."""
    return 1 << (count - 1).bit_length() - 1


def verify_inclusion(proof: Sequence[bytes], *, index: int, size: int, leaf: bytes, root: bytes) -> None:
    """Refuse unless ``leaf``, a leaf's hash, is number ``index`` under ``root`` of ``size`` leaves (RFC 9162 §2.1.3.2).

    Raises:
        LedgerError: LEDGER_PROOF.
    """
    _require(0 <= index < size <= MAX_SIZE, "inclusion: no such leaf in a tree of this size")
    hashes = _hashes(proof, leaf, root)
    place, last, node = index, size - 1, leaf
    for sibling in hashes:
        _require(last > 0, "inclusion: a hash too many")
        if place & 1 or place == last:
            node = node_hash(sibling, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        place, last = place >> 1, last >> 1
    _require(last == 0, "inclusion: a hash is missing")
    _require(node == root, "inclusion: does not lead to the root")


def verify_consistency(proof: Sequence[bytes], *, old: int, old_root: bytes, new: int, new_root: bytes) -> None:
    """Refuse unless the log of ``new`` leaves under ``new_root`` extends that of ``old`` (RFC 9162 §2.1.4.2).

    Raises:
        LedgerError: LEDGER_PROOF.
    """
    _require(0 <= old <= new <= MAX_SIZE, "consistency: the log shrinks")
    hashes = list(_hashes(proof, old_root, new_root))
    if old in (0, new):
        _require(not hashes, "consistency: a hash too many")
        _require(old_root == (new_root if old else EMPTY_ROOT), "consistency: another root of the same size")
        return
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)  # a complete tree is a subtree of the new one, and left out of its proof
    _require(bool(hashes), "consistency: a hash is missing")
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = hashes[0]
    for node in hashes[1:]:
        _require(last > 0, "consistency: a hash too many")
        if place & 1 or place == last:
            before, after = node_hash(node, before), node_hash(node, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, node)
        place, last = place >> 1, last >> 1
    _require(last == 0, "consistency: a hash is missing")
    _require(before == old_root and after == new_root, "consistency: does not lead to both roots")


def _hashes(proof: Sequence[bytes], *others: bytes) -> Sequence[bytes]:
    _require(len(proof) <= MAX_PROOF_HASHES, "proof: a hash too many")
    _require(all(len(one) == HASH_BYTES for one in (*proof, *others)), "proof: hashes of 32 bytes expected")
    return proof


def _require(holds: bool, detail: str) -> None:
    if not holds:
        raise LedgerError(Reason.LEDGER_PROOF, detail)
