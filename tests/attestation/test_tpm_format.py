"""TPM structures, bytes to fields: exactly one spelling of each, and everything else refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attestation.quotes import Quote, draw_key, public_area, selection_bytes, sign, sized, u16, u32
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import (
    ATTRIBUTES,
    PcrSelection,
    Scheme,
    UnverifiedSignature,
    parse_public,
    parse_quote,
    parse_signature,
)
from trusted.errors import AttestationError, ProtocolError, Reason

P256 = Scheme.ECDSA_P256_SHA256
RSA = Scheme.RSASSA_SHA256
QUOTE = Quote().encode()
KEYS = {scheme: draw_key(scheme) for scheme in (P256, RSA)}
AREAS = {scheme: public_area(key, scheme) for scheme, key in KEYS.items()}
SIGNATURES = {scheme: sign(key, scheme, QUOTE) for scheme, key in KEYS.items()}
PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "quote": (parse_quote, QUOTE),
    "ak P-256": (parse_public, AREAS[P256]),
    "ak RSA": (parse_public, AREAS[RSA]),
    "signature P-256": (parse_signature, SIGNATURES[P256]),
    "signature RSA": (parse_signature, SIGNATURES[RSA]),
}


def refused(parse: Callable[[bytes], object], content: bytes) -> str:
    with pytest.raises(AttestationError) as error:
        parse(content)
    assert error.value.reason is Reason.EVIDENCE_FORMAT
    return error.value.detail


def test_a_quote_reads_as_it_was_written() -> None:
    quote = parse_quote(QUOTE)
    assert quote.extra_data == b"\x22" * 32
    assert quote.selections == (PcrSelection(Bank.SHA256, (4, 9, 11)),)
    assert quote.pcr_digest == Bank.SHA256.digest(b"".join(Quote().values))
    assert (quote.clock_ms, quote.reset_count, quote.restart_count, quote.clock_safe) == (77, 3, 1, True)
    assert quote.firmware_version == 0x0001000200000000
    assert quote.values_bytes == 96


@pytest.mark.parametrize("name", PARSERS)
def test_a_structure_cut_short_or_with_a_byte_more_is_refused(name: str) -> None:
    parse, good = PARSERS[name]
    parse(good)
    for end in range(len(good)):
        refused(parse, good[:end])
    refused(parse, good + b"\x00")
    refused(parse, good + bytes(2000))


@pytest.mark.parametrize(
    ("quote", "field"),
    [
        (Quote(magic=0xFF544346), "quote.magic"),
        (Quote(type=0x8017), "quote.type"),
        (Quote(type=0x801A), "quote.type"),
        (Quote(safe=2), "quote.safe"),
        (Quote(extra_data=bytes(65)), "quote.extraData"),
        (Quote(digest=bytes(65)), "quote.pcrDigest"),
        (Quote(selections=u32(0)), "quote.pcrSelect"),
        (Quote(selections=u32(5) + selection_bytes(0x0B, (1,)) * 5), "quote.pcrSelect"),
        (Quote(selections=u32(2) + selection_bytes(0x0B, (1,)) * 2), "quote.pcrSelect"),
        (Quote(selections=u32(1) + selection_bytes(0x0B, ())), "quote.pcrSelect"),
        (Quote(selections=u32(1) + selection_bytes(0x04, (1,))), "quote.bank"),
        (Quote(selections=u32(1) + selection_bytes(0x0B, (1,), size=4)), "quote.sizeofSelect"),
        (Quote(selections=u32(1) + selection_bytes(0x0B, (1,), size=1)), "quote.sizeofSelect"),
    ],
)
def test_a_quote_that_says_something_else_is_refused(quote: Quote, field: str) -> None:
    assert refused(parse_quote, quote.encode()).startswith(field)


@pytest.mark.parametrize(
    ("scheme", "changes", "field"),
    [
        (P256, {"type": 0x08}, "ak.type"),
        (P256, {"name_alg": 0x04}, "ak.nameAlg"),
        (P256, {"symmetric": 0x06}, "ak.symmetric"),
        (P256, {"scheme": 0x1C}, "ak.scheme"),  # EC Schnorr
        (P256, {"scheme": 0x1A}, "ak.scheme"),  # ECDAA
        (P256, {"hash": 0x04}, "ak.scheme"),
        (P256, {"hash": 0x0C}, "ak.curveID"),
        (P256, {"curve": 0x04}, "ak.curveID"),
        (P256, {"curve": 0x10}, "ak.curveID"),
        (P256, {"kdf": 0x20}, "ak.kdf"),
        (P256, {"attributes": 0x00050072 | 1}, "ak.objectAttributes"),
        (P256, {"attributes": 0x00050072 | 1 << 20}, "ak.objectAttributes"),
        (RSA, {"scheme": 0x16}, "ak.scheme"),  # PSS
        (RSA, {"hash": 0x04}, "ak.scheme"),
        (RSA, {"bits": 1024}, "ak.keyBits"),
        (RSA, {"bits": 4096}, "ak.unique"),
        (RSA, {"exponent": 3}, "ak.exponent"),
    ],
)
def test_a_key_of_another_kind_is_refused(scheme: Scheme, changes: dict[str, int], field: str) -> None:
    assert refused(parse_public, public_area(KEYS[scheme], scheme, **changes)).startswith(field)


def test_the_default_exponent_has_two_spellings_in_a_tpm() -> None:
    area = public_area(KEYS[RSA], RSA, exponent=65537)
    assert parse_public(area) == parse_public(AREAS[RSA])


def test_attributes_are_read_by_their_names() -> None:
    names = parse_public(AREAS[P256]).attributes
    assert names == {"fixed_tpm", "fixed_parent", "sensitive_data_origin", "user_with_auth", "restricted", "sign"}
    assert len(set(ATTRIBUTES.values())) == len(ATTRIBUTES)


@pytest.mark.parametrize("algorithm", [0x0016, 0x001A, 0x001B, 0x001C, 0x0005, 0x0010])
def test_a_signature_of_another_kind_is_refused(algorithm: int) -> None:
    assert refused(parse_signature, u16(algorithm, 0x0B) + sized(bytes(32)) + sized(bytes(32))).startswith("signature")


def test_a_signature_claims_one_scheme_alone() -> None:
    assert [scheme for scheme in Scheme if parse_signature(SIGNATURES[RSA]).is_of(scheme)] == [RSA]
    assert [scheme for scheme in Scheme if parse_signature(SIGNATURES[P256]).is_of(scheme)] == [P256]
    assert not any(UnverifiedSignature(0x18, 0x04, b"", 1, 1).is_of(scheme) for scheme in Scheme)


@given(st.binary(max_size=200))
def test_any_bytes_read_or_are_refused(content: bytes) -> None:
    for parse, _ in PARSERS.values():
        try:
            parse(content)
        except ProtocolError:
            continue


@given(st.sampled_from(sorted(PARSERS)), st.data())
def test_any_change_of_a_good_structure_reads_or_is_refused(name: str, data: st.DataObject) -> None:
    parse, good = PARSERS[name]
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse(bytes(changed))
    except ProtocolError:
        return
