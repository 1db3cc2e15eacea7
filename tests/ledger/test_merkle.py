"""The Merkle tree against the published answers, against the definition, and against every small lie.

Known answers: the reference vectors of Certificate Transparency (github.com/transparency-dev/merkle, testonly and
proof/verify_test.go; first in google/certificate-transparency), for the tree of RFC 6962 and RFC 9162.
"""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trusted.errors import LedgerError, Reason, WireError
from trusted.ledger.merkle import (
    EMPTY_ROOT,
    MAX_PROOF_HASHES,
    Tree,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAF_0 = ROOTS[1]
LEAF_1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
LEAF_4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
LEAF_6 = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f"
NODE_23 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
NODE_45 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
NODE_67 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
NODE_47 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
INCLUSION = [  # (index, size, path)
    (0, 1, []),
    (0, 8, [LEAF_1, NODE_23, NODE_47]),
    (5, 8, [LEAF_4, NODE_67, ROOTS[4]]),
    (7, 8, [LEAF_6, NODE_45, ROOTS[4]]),
    (2, 3, [ROOTS[2]]),
    (1, 5, [LEAF_0, NODE_23, LEAF_4]),
]
CONSISTENCY = [  # (old, new, proof)
    (1, 1, []),
    (1, 8, [LEAF_1, NODE_23, NODE_47]),
    (2, 8, [NODE_23, NODE_47]),
    (6, 8, [NODE_45, NODE_67, ROOTS[4]]),
    (2, 5, [NODE_23, LEAF_4]),
    (6, 7, [NODE_45, LEAF_6, ROOTS[4]]),
]
SIZES = st.integers(1, 70)


def tree_of(leaves: list[bytes]) -> Tree:
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


def numbered(size: int) -> list[bytes]:
    return [b"leaf %d" % index for index in range(size)]


BIG = tree_of(numbered(80))


def hex_of(proof: tuple[bytes, ...]) -> list[str]:
    return [one.hex() for one in proof]


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH, word for word from RFC 9162 §2.1.1."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = naive_split(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_split(count: int) -> int:
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def naive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH, from RFC 9162 §2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: list[bytes], complete: bool) -> list[bytes]:
    """SUBPROOF, from RFC 9162 §2.1.4.1."""
    if m == len(leaves):
        return [] if complete else [naive_root(leaves)]
    k = naive_split(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], complete), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def refused(call) -> None:
    with pytest.raises(LedgerError) as caught:
        call()
    assert caught.value.reason is Reason.LEDGER_PROOF


def mangled(proof: tuple[bytes, ...], bit: int) -> list[tuple[bytes, ...]]:
    """One bit flipped in each hash, each left out, one more at either end, each of another length."""
    flipped = [bytes([*one[: bit // 8], one[bit // 8] ^ 1 << bit % 8, *one[bit // 8 + 1 :]]) for one in proof]
    others = [(*proof[:at], bad, *proof[at + 1 :]) for at, bad in enumerate(flipped)]
    others += [proof[:at] + proof[at + 1 :] for at in range(len(proof))]
    others += [(*proof, bytes(32)), (bytes(32), *proof), (*proof, *proof[-1:]) if proof else (bytes(32),)]
    others += [(*proof[:at], proof[at][:-1], *proof[at + 1 :]) for at in range(len(proof))]
    others += [(*proof[:at], proof[at] + b"\0", *proof[at + 1 :]) for at in range(len(proof))]
    return others


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size):
    assert tree_of(LEAVES[:size]).root().hex() == ROOTS[size]
    assert tree_of(LEAVES).root(size).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_inclusion_proofs_are_the_published_ones(index, size, path):
    proof = tree_of(LEAVES).inclusion_proof(index, size)
    assert hex_of(proof) == path
    verify_inclusion(proof, index=index, size=size, leaf=leaf_hash(LEAVES[index]), root=bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "new", "path"), CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(old, new, path):
    proof = tree_of(LEAVES).consistency_proof(old, new)
    assert hex_of(proof) == path
    old_root, new_root = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new])
    verify_consistency(proof, old=old, old_root=old_root, new=new, new_root=new_root)


def test_a_leaf_never_passes_for_a_node():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert node_hash(left, right) != leaf_hash(left + right)


@settings(deadline=None)
@given(leaves=st.lists(st.binary(max_size=40), max_size=70), data=st.data())
def test_the_tree_is_what_the_rfc_defines(leaves, data):
    tree = tree_of(leaves)
    size = data.draw(st.integers(0, len(leaves)))
    assert tree.root(size) == naive_root(leaves[:size])
    if size:
        index = data.draw(st.integers(0, size - 1))
        assert list(tree.inclusion_proof(index, size)) == naive_path(index, leaves[:size])
        old = data.draw(st.integers(1, size))
        assert list(tree.consistency_proof(old, size)) == naive_subproof(old, leaves[:size], True)


@pytest.mark.parametrize("size", range(1, 34))
def test_every_proof_of_a_small_tree_verifies(size):
    root = BIG.root(size)
    for index in range(size):
        proof = BIG.inclusion_proof(index, size)
        verify_inclusion(proof, index=index, size=size, leaf=BIG.hash_of(index), root=root)
    for old in range(size + 1):
        proof = BIG.consistency_proof(old, size)
        verify_consistency(proof, old=old, old_root=BIG.root(old), new=size, new_root=root)


@settings(deadline=None)
@given(size=SIZES, data=st.data())
def test_an_inclusion_proof_proves_nothing_else(size, data):
    index = data.draw(st.integers(0, size - 1))
    proof, leaf, root = BIG.inclusion_proof(index, size), BIG.hash_of(index), BIG.root(size)
    for bad in mangled(proof, data.draw(st.integers(0, 255))):
        refused(lambda bad=bad: verify_inclusion(bad, index=index, size=size, leaf=leaf, root=root))
    for other in {-1, *range(size + 2)} - {index}:
        refused(lambda other=other: verify_inclusion(proof, index=other, size=size, leaf=leaf, root=root))
    for other in {*range(81)} - {size}:
        at = BIG.root(other)
        refused(lambda other=other, at=at: verify_inclusion(proof, index=index, size=other, leaf=leaf, root=at))
    refused(lambda: verify_inclusion(proof, index=index, size=size, leaf=leaf_hash(b"another"), root=root))
    refused(lambda: verify_inclusion(proof, index=index, size=size, leaf=leaf, root=leaf_hash(b"another")))


@settings(deadline=None)
@given(new=SIZES, data=st.data())
def test_a_consistency_proof_proves_nothing_else(new, data):
    old = data.draw(st.integers(1, new))
    proof, old_root, new_root = BIG.consistency_proof(old, new), BIG.root(old), BIG.root(new)
    for bad in mangled(proof, data.draw(st.integers(0, 255))):
        refused(lambda bad=bad: verify_consistency(bad, old=old, old_root=old_root, new=new, new_root=new_root))
    for other in {*range(81)} - {old, 0}:
        at = BIG.root(other)
        refused(lambda o=other, at=at: verify_consistency(proof, old=o, old_root=at, new=new, new_root=new_root))
    for other in {*range(81)} - {new}:
        at = BIG.root(other)
        refused(lambda o=other, at=at: verify_consistency(proof, old=old, old_root=old_root, new=o, new_root=at))
    for bad in (leaf_hash(b"another"), old_root[:31], old_root + b"\0", b""):
        refused(lambda bad=bad: verify_consistency(proof, old=old, old_root=bad, new=new, new_root=new_root))
        refused(lambda bad=bad: verify_consistency(proof, old=old, old_root=old_root, new=new, new_root=bad))


def test_every_log_extends_the_empty_one_without_a_proof():
    verify_consistency((), old=0, old_root=EMPTY_ROOT, new=5, new_root=BIG.root(5))
    refused(lambda: verify_consistency((bytes(32),), old=0, old_root=EMPTY_ROOT, new=5, new_root=BIG.root(5)))
    refused(lambda: verify_consistency((), old=0, old_root=BIG.root(1), new=5, new_root=BIG.root(5)))


@settings(deadline=None)
@given(size=st.integers(2, 60), data=st.data())
def test_a_rewritten_leaf_breaks_every_consistency_proof_over_it(size, data):
    at = data.draw(st.integers(0, size - 2))
    old = data.draw(st.integers(at + 1, size - 1))
    forged = tree_of([*numbered(at), b"rewritten", *numbered(size)[at + 1 :]])
    proof = forged.consistency_proof(old, size)
    refused(lambda: verify_consistency(proof, old=old, old_root=BIG.root(old), new=size, new_root=forged.root()))


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (0, 81), (0, -1)])
def test_a_leaf_that_is_not_there_has_no_proof(index, size):
    with pytest.raises(ValueError):
        BIG.inclusion_proof(index, size)


@pytest.mark.parametrize(("old", "new"), [(-1, 5), (6, 5), (0, 81)])
def test_a_size_that_never_was_has_no_proof(old, new):
    with pytest.raises(ValueError):
        BIG.consistency_proof(old, new)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_leaf_hash_of_another_length_is_not_added(length):
    tree = Tree()
    with pytest.raises(WireError):
        tree.append_hash(bytes(length))
    assert tree.size == 0


def test_a_proof_is_bounded_before_it_is_hashed():
    endless = (bytes(32),) * (MAX_PROOF_HASHES + 1)
    refused(lambda: verify_inclusion(endless, index=0, size=1 << 40, leaf=bytes(32), root=bytes(32)))
    refused(lambda: verify_consistency(endless, old=1, old_root=bytes(32), new=1 << 40, new_root=bytes(32)))


def test_proofs_of_a_large_log_hash_little():
    """Of 2^16 leaves and a ragged end: what an append, a root and a proof cost is counted in hashes, not in seconds."""
    tree = tree_of(numbered((1 << 16) + 12_345))
    proof = tree.inclusion_proof(40_000)
    assert len(proof) <= 17
    verify_inclusion(proof, index=40_000, size=tree.size, leaf=tree.hash_of(40_000), root=tree.root())
    proof = tree.consistency_proof(33_333)
    assert len(proof) <= 18
    verify_consistency(proof, old=33_333, old_root=tree.root(33_333), new=tree.size, new_root=tree.root())
