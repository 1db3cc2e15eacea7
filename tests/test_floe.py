"""FLOE against the published known answers of other implementations, and what must not open."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag

from trusted.floe import HEADER_BYTES, OVERHEAD_BYTES, Floe

KEY = bytes(32)
CONTEXT = b"This is AAD"
# Of two other implementations: segments of 64 bytes; segments of 40 bytes with a new AES key every 4 of them.
KNOWN = [
    (
        64,
        20,
        "b7f54726b914b689881ab315b032a633b452c1c59a43f430c1cc00a39d1a5eb4773dbc6b5f26255e0d3714694c9c9ffbfa8adb998aec"
        "bb0601a4cade83764b8b13ccaa",
        "00000000004000000020b57c157a4855bdb2500cf55af49648e0fea0bfbac93407bc6b4fca9c471b018f869339a3eccec33fe43c2e12"
        "4caadbf083e53390f9b2f1cd5d612cd50f2592affffffffff10bc888c8e6f0c6308feb9143a161347a94ac632e2381acb5f2fca4b554"
        "bc0a2eb47bfea26edda9ec26298b797ebda8571cb28e1d9ccb59687c2e78ffffffff829f847d58257efdd08766aebb6ada17795c3960"
        "5acbc683928f2e7e822916147be7af0aa19f1d7e32b3d9038ee437dc566cf8980df2b85e9037a19d000000236ddde6266ddd8519ccb7"
        "6228f4929eca37ca5c2df92a1b2004d615f191ad7d",
    ),
    (
        40,
        2,
        "baec5a3d05e96837d3672de18881ddf7454528cf2c8e604dc09e5e08c3233bba59f8c0359db60547ef988903e36bcc80dce0f693c04c"
        "757a664e030246b15bccf6309663d5264d22654b0f86616d6c4c6611fa",
        "00000000002800000020610a063caa02c2dc556e770a48209279c8e50c9ed036c75318c4d49ac3f56c42fca17e47d1c4ff0a3ffdb011"
        "c09edf1a23d939f8bd9fe75f3855136049c63cacfffffffffcef546df28fc7832bb0a54d1cd3d7441134dc55d2626273a66b6049d5f9"
        "b7513f5ee67dfffffffff63eecd7ca42bc1fbddc08ded336741aba7eb620787e940b510d3bedb88026de49a15e2affffffff480fe016"
        "d8a3d3ce5001cbae97a24a39afba66575728fce3d1bc764aae2e6725adfa7c8dffffffffa595b5f465389875ad0e2819f9d77302de4a"
        "9f21d5479f3d618b5f94c83d61ca173a56faffffffffc8a81a1686ee058082ce79da0b749fb598fcb94eff598f45935f3c7401ddc89d"
        "4d10a686ffffffffe8c16f5df03c2de4fbbf6148865af82f8fd0a997211d332671ba5bd5fe52192deb913210ffffffff8772fe21691f"
        "21c16316d39f1434c568aa5e7f907723079d18abc7e9badc7704031aa4acffffffff53617a2d9306fe824c7eebd6f4bd4f14ce53821b"
        "9cfd5bd18c26d72e528219a1f4f21df1ffffffff08aea31e3dbf99daf7641702522e66892d8e6ad4feb966285cdfe2cdbcb9408f27cc"
        "f0fdffffffff8233aa972c0ea26937e93d66be01ccd001ce5a418ab97feeac6660cbef42c9cb51e9247300000023c10574a601b81328"
        "6915cb7cbe536c736be345830006e66e79ba4cde058e58",
    ),
]


def segments(sealed: bytes, size: int) -> list[bytes]:
    body = sealed[HEADER_BYTES:]
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.mark.parametrize(("size", "rotation", "plaintext", "sealed"), KNOWN)
def test_known_answers_open_in_any_order(size, rotation, plaintext, sealed):
    sealed = bytes.fromhex(sealed)
    floe = Floe.resume(KEY, CONTEXT, sealed[:HEADER_BYTES], segment_bytes=size, rotation_bits=rotation)
    pieces, out = segments(sealed, size), memoryview(bytearray(size))
    opened = {}
    for position in reversed(range(len(pieces))):
        length = floe.open_into(position, pieces[position], out, last=position == len(pieces) - 1)
        opened[position] = bytes(out[:length])
    assert b"".join(opened[position] for position in range(len(pieces))) == bytes.fromhex(plaintext)


def message(*plaintexts: bytes, size: int = 64) -> tuple[bytes, list[bytes]]:
    floe, header = Floe.start(KEY, CONTEXT, segment_bytes=size)
    out, sealed = memoryview(bytearray(size)), []
    for position, plaintext in enumerate(plaintexts):
        length = floe.seal_into(position, plaintext, out, last=position == len(plaintexts) - 1)
        sealed.append(bytes(out[:length]))
    return header, sealed


def opens(header: bytes, segment: bytes, position: int, *, last: bool, key: bytes = KEY, context: bytes = CONTEXT):
    out = memoryview(bytearray(64))
    floe = Floe.resume(key, context, header, segment_bytes=64)
    return bytes(out[: floe.open_into(position, segment, out, last=last)])


FULL = bytes(range(32))


def test_what_was_sealed_opens_and_two_messages_differ():
    header, (first, last) = message(FULL, b"end")
    assert opens(header, first, 0, last=False) == FULL
    assert opens(header, last, 1, last=True) == b"end"
    assert len(last) == 3 + OVERHEAD_BYTES
    assert message(FULL, b"end")[1] != [first, last]
    assert opens(*(lambda h, s: (h, s[0]))(*message(b"")), 0, last=True) == b""


@pytest.mark.parametrize(
    ("position", "last"), [(1, False), (0, True), (1 << 20, False)], ids=["moved", "as the last", "another epoch"]
)
def test_a_segment_opens_at_its_own_place_alone(position, last):
    header, (first, _) = message(FULL, b"end")
    with pytest.raises(InvalidTag):
        opens(header, first, position, last=last)


def test_the_last_segment_is_not_one_of_the_middle():
    header, (_, last) = message(FULL, FULL)
    assert opens(header, last, 1, last=True) == FULL
    for damaged in (last, b"\xff" * 4 + last[4:]):
        with pytest.raises(InvalidTag):
            opens(header, damaged, 1, last=False)


def test_every_flipped_bit_and_every_other_length_is_refused():
    header, (first, last) = message(FULL, b"end")
    for place in range(8 * len(header)):
        with pytest.raises(InvalidTag):
            opens(flipped(header, place), first, 0, last=False)
    for place in range(8 * len(last)):
        with pytest.raises(InvalidTag):
            opens(header, flipped(last, place), 1, last=True)
    for other in (*(last[:size] for size in range(len(last))), last + b"\0", bytes(65)):
        with pytest.raises(InvalidTag):
            opens(header, other, 1, last=True)


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def test_another_key_context_or_header_opens_nothing():
    header, (first, _) = message(FULL, b"end")
    other, _ = message(FULL, b"end")
    for changes in ({"key": b"\1" * 32}, {"context": b"This is aad"}):
        with pytest.raises(InvalidTag):
            opens(header, first, 0, last=False, **changes)
    with pytest.raises(InvalidTag):
        opens(other, first, 0, last=False)
    with pytest.raises(InvalidTag):
        opens(header[:-1], first, 0, last=False)


def test_a_plaintext_of_another_size_is_a_bug_of_the_caller():
    floe, _ = Floe.start(KEY, CONTEXT, segment_bytes=64)
    out = memoryview(bytearray(64))
    for plaintext, last in ((bytes(31), False), (bytes(33), False), (bytes(33), True)):
        with pytest.raises(ValueError, match="segment"):
            floe.seal_into(0, plaintext, out, last=last)


def test_keys_have_no_repr():
    floe, _ = Floe.start(KEY, CONTEXT, segment_bytes=64)
    assert "key" not in repr(floe)
