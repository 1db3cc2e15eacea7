"""The app's own words on the host's disk: sealed, of one size, in order; and read by the member alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from trusted.errors import AppError, Reason
from trusted.hpke import SealingKey
from worker.app_log import BLOCK_BYTES, WORDS_A_PART, End, LogSealer, Part, Reader, Start, open_log

KEY = SealingKey.generate()
READER = Reader("hospital-a", bytes(range(32)), KEY.public)


def sealed(*words: bytes, last: Part = Part.LAST, reader: Reader = READER) -> list[bytes]:
    """The blocks of one start: its head, then a part for each of ``words``."""
    sealer = LogSealer(reader)
    kinds = [Part.WHOLE] * (len(words) - 1) + [last]
    parts = zip(words, kinds, strict=True)
    return [sealer.head, *(sealer.part(number, said, kind) for number, (said, kind) in enumerate(parts))]


def opened(*blocks: bytes, key: SealingKey = KEY) -> list[Start]:
    return list(open_log(io.BytesIO(b"".join(blocks)), key))


def test_the_member_reads_what_was_said_and_for_which_plan() -> None:
    assert opened(*sealed(b"one ", b"two ", b"")) == [Start("hospital-a", READER.plan, b"one two ", End.WHOLE)]


def test_no_word_stands_in_the_file_and_every_block_has_one_size() -> None:
    blocks = sealed(b"Ada Lovelace", b"", b"x" * WORDS_A_PART)
    assert {len(block) for block in blocks} == {BLOCK_BYTES}
    assert b"Ada Lovelace" not in b"".join(blocks)


def test_the_same_words_are_sealed_otherwise_each_time() -> None:
    sealer = LogSealer(READER)
    assert sealer.part(0, b"same", Part.TAIL) != sealer.part(0, b"same", Part.TAIL)


def test_more_words_than_a_part_holds_are_the_callers_error() -> None:
    with pytest.raises(ValueError, match="at most"):
        LogSealer(READER).part(0, b"x" * (WORDS_A_PART + 1), Part.WHOLE)


def test_an_enclave_that_was_ended_leaves_what_it_said_until_then() -> None:
    (start,) = opened(*sealed(b"one ", b"two", last=Part.TAIL))
    assert (start.words, start.end) == (b"one two", End.CUT)
    assert opened(LogSealer(READER).head)[0].end is End.CUT


def test_starts_follow_one_another_and_a_cut_one_hides_none_after_it() -> None:
    found = opened(*sealed(b"first", last=Part.TAIL), *sealed(b"second"), *sealed(b"third"))
    assert [(start.words, start.end) for start in found] == [
        (b"first", End.CUT),
        (b"second", End.WHOLE),
        (b"third", End.WHOLE),
    ]


Change = Callable[[list[bytes]], list[bytes]]


def flipped(block: int, place: int) -> Change:
    def change(blocks: list[bytes]) -> list[bytes]:
        data = bytearray(blocks[block])
        data[place] ^= 1
        return [*blocks[:block], bytes(data), *blocks[block + 1 :]]

    return change


@pytest.mark.parametrize(
    ("change", "words", "end"),
    [
        (lambda blocks: blocks[:-1], b"one two ", End.CUT),
        (lambda blocks: [*blocks[:-1], blocks[-1][:-1]], b"one two ", End.ALTERED),
        (lambda blocks: [blocks[0], blocks[2], blocks[1], blocks[3]], b"", End.ALTERED),
        (lambda blocks: [blocks[0], blocks[1], blocks[3]], b"one ", End.ALTERED),
        (lambda blocks: [*blocks[:2], blocks[1], *blocks[2:]], b"one ", End.ALTERED),
        (lambda blocks: [*blocks, blocks[3]], b"one two three", End.ALTERED),
        (lambda blocks: [*blocks, bytes(BLOCK_BYTES)], b"one two three", End.ALTERED),
        (flipped(2, 0), b"one ", End.ALTERED),
        (flipped(2, 5), b"one ", End.ALTERED),
        (flipped(2, BLOCK_BYTES - 1), b"one ", End.ALTERED),
        (lambda blocks: [blocks[0], b"E" + blocks[1][1:]], b"", End.ALTERED),
    ],
)
def test_a_log_that_was_cut_altered_or_reordered_is_told(change: Change, words: bytes, end: End) -> None:
    (start,) = opened(*change(sealed(b"one ", b"two ", b"three")))
    assert (start.words, start.end) == (words, end)


def test_an_older_copy_of_a_tail_does_not_pass_in_the_middle() -> None:
    sealer = LogSealer(READER)
    older = sealer.part(0, b"one", Part.TAIL)
    newer = [sealer.head, sealer.part(0, b"one and more", Part.WHOLE), sealer.part(1, b"", Part.LAST)]
    assert opened(*newer)[0].words == b"one and more"
    (start,) = opened(newer[0], older, newer[2])
    assert (start.words, start.end) == (b"one", End.ALTERED)


def test_parts_of_another_start_do_not_pass() -> None:
    one, other = sealed(b"one"), sealed(b"other")
    (start,) = opened(one[0], other[1])
    assert (start.words, start.end) == (b"", End.ALTERED)


@pytest.mark.parametrize(
    "blocks",
    [
        [b"a plain file"],
        [bytes(BLOCK_BYTES)],
        sealed(b"x")[1:],
        [b"S"],
        [b"S" + bytes(BLOCK_BYTES - 1)],
        [b"S\xff\xff" + bytes(BLOCK_BYTES - 3)],
        flipped(0, 20)(sealed(b"x")),
        flipped(0, 200)(sealed(b"x")),
        flipped(0, BLOCK_BYTES - 1)(sealed(b"x"))[1:],
        sealed(b"x", reader=replace(READER, sealing_key=SealingKey.generate().public)),
    ],
)
def test_what_is_no_log_or_is_sealed_to_another_key_is_refused(blocks: list[bytes]) -> None:
    with pytest.raises(AppError) as error:
        opened(*blocks)
    assert error.value.reason is Reason.APP_LOG


def test_an_empty_file_says_nothing() -> None:
    assert opened() == []


def test_the_reader_shows_no_key() -> None:
    assert KEY.public.hex()[:16] not in repr(READER)
