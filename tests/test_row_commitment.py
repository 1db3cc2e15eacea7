"""A commitment to rows: the RFC 9162 tree over salted rows, its proofs, and what nobody can make of them."""

from __future__ import annotations

import hmac
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trusted.errors import LedgerError, ProtocolError, Reason
from trusted.ledger.merkle import EMPTY_ROOT, Frontier, Tree, leaf_hash
from trusted.row_commitment import RowCommitment, RowProof, secret_of
from trusted.wire import length_prefixed, pack, sha256

SECRET = bytes(range(32))
COLUMNS = ("age", "sbp")
ROWS = st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=1, max_size=40)


def committed(rows: list[tuple[str, str]], *, keep: bool = False, secret: bytes = SECRET) -> RowCommitment:
    made = RowCommitment(COLUMNS, secret, keep=keep)
    for row in rows:
        made.add(row)
    return made


def numbered(count: int) -> list[tuple[str, str]]:
    return [(str(number), "x") for number in range(count)]


@pytest.mark.parametrize("size", [*range(70), 127, 128, 129, 1000])
def test_the_frontier_has_the_root_of_the_tree(size: int) -> None:
    tree, frontier = Tree(), Frontier()
    for number in range(size):
        tree.append(bytes([number & 255]))
        frontier.append_hash(leaf_hash(bytes([number & 255])))
    assert frontier.root() == tree.root()
    assert frontier.size == size
    assert (size == 0) == (frontier.root() == EMPTY_ROOT)


def test_the_frontier_keeps_one_hash_for_each_bit_of_its_size() -> None:
    frontier = Frontier()
    for number in range(5000):
        frontier.append_hash(leaf_hash(number.to_bytes(4, "big")))
        assert len(frontier._peaks) == frontier.size.bit_count()


def test_the_commitment_is_the_record_of_root_rows_and_columns() -> None:
    tree = Tree()
    for index, row in enumerate(numbered(3)):
        salt = hmac.digest(SECRET, index.to_bytes(8, "big"), "sha256")
        tree.append(pack("cloister/dataset-row/v1", salt, length_prefixed(*(text.encode() for text in row))))
    names = length_prefixed(b"age", b"sbp")
    expected = sha256(pack("cloister/dataset/v2", tree.root(), (3).to_bytes(8, "big"), names))
    assert committed(numbered(3)).digest() == expected == committed(numbered(3), keep=True).digest()


def test_another_secret_row_order_number_or_column_is_another_commitment() -> None:
    rows = numbered(4)
    found = {
        committed(rows).digest(),
        committed(rows, secret=bytes(32)).digest(),
        committed([*rows[:3], ("3", "y")]).digest(),
        committed([rows[1], rows[0], *rows[2:]]).digest(),
        committed(rows[:3]).digest(),
        committed([*rows, rows[0]]).digest(),
    }
    other = RowCommitment(("age", "dbp"), SECRET)
    for row in rows:
        other.add(row)
    assert len(found | {other.digest()}) == 7


def test_where_one_field_ends_counts() -> None:
    assert committed([("ab", "c")]).digest() != committed([("a", "bc")]).digest()


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, data=st.data())
def test_every_row_is_proved_and_no_other_row_or_place_is(rows: list[tuple[str, str]], data: st.DataObject) -> None:
    made = committed(rows, keep=True)
    index = data.draw(st.integers(0, len(rows) - 1))
    proof = RowProof.decode(made.prove(index, rows[index]).encode())
    proof.verify(made.digest())
    for wrong in (
        replace(proof, row=("?" + proof.row[0], proof.row[1])),
        replace(proof, row=proof.row[:1]),
        replace(proof, columns=("sbp", "age")),
        replace(proof, index=proof.index + 1),
        replace(proof, rows=proof.rows + 1),
        replace(proof, salt=bytes(32)),
        replace(proof, root=bytes(32)),
        replace(proof, path=(*proof.path, bytes(32))),
    ):
        with pytest.raises(LedgerError) as refused:
            wrong.verify(made.digest())
        assert refused.value.reason is Reason.DATA_PROOF
    with pytest.raises(LedgerError):
        proof.verify(bytes(32))


def test_a_row_of_another_data_set_is_not_proved() -> None:
    proof = committed(numbered(5), keep=True).prove(2, ("2", "x"))
    with pytest.raises(LedgerError):
        proof.verify(committed(numbered(6)).digest())


def test_without_keeping_there_is_no_proof() -> None:
    with pytest.raises(ValueError, match="keeps nothing"):
        committed(numbered(2)).prove(0, ("0", "x"))


def test_the_secret_of_a_file_is_another_one_under_each_plan_and_key() -> None:
    first = secret_of(bytes(32), bytes(32))
    assert len({first, secret_of(SECRET, bytes(32)), secret_of(bytes(32), SECRET)}) == 3
    assert secret_of(bytes(32), bytes(32)) == first


def test_a_proof_shows_no_row_in_its_repr_nor_a_commitment_its_secret() -> None:
    made = committed([("Ada", "36")], keep=True)
    assert "Ada" not in repr(made.prove(0, ("Ada", "36")))
    assert repr(SECRET) not in repr(made)


@given(st.binary(max_size=300))
def test_whatever_the_bytes_a_proof_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        RowProof.decode(data)
