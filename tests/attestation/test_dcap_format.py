"""The parser of Intel quotes: one quote has one spelling, and what has another is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attestation.intel_quotes import (
    CHAIN,
    REPORT_DATA,
    TD_FIELDS,
    certification,
    enclave_body,
    header,
    pem,
    sgx_quote,
    signature,
    td_body,
    tdx_quote,
)
from trusted.attestation.formats.dcap import SGX_ATTRIBUTES, TD_ATTRIBUTES, TdBodyKind, parse_sgx, parse_tdx
from trusted.errors import AttestationError, ProtocolError, Reason

QUOTES = {"tdx-4": tdx_quote(4), "tdx-5": tdx_quote(5), "tdx-5-td-1.0": tdx_quote(5, td_body()), "sgx-3": sgx_quote()}


def parse(quote: bytes) -> object:
    return parse_sgx(quote) if quote[:1] == b"\x03" else parse_tdx(quote)


def refused(quote: bytes, parser: Callable[[bytes], object] = parse) -> Reason:
    with pytest.raises(AttestationError) as error:
        parser(quote)
    return error.value.reason


def with_field(field: str, content: bytes, version: int = 5) -> bytes:
    body = bytearray(td_body(td_1_5=version == 5))
    body[TD_FIELDS[field] : TD_FIELDS[field] + len(content)] = content
    return tdx_quote(version, bytes(body))


def with_enclave(offset: int, content: bytes) -> bytes:
    body = bytearray(enclave_body())
    body[offset : offset + len(content)] = content
    return sgx_quote(bytes(body))


@pytest.mark.parametrize("version", [4, 5])
def test_every_field_of_a_td_is_read_from_its_place(version: int) -> None:
    size = 648 if version == 5 else 584
    body = bytearray(index * 7 % 251 for index in range(size))
    body[120:128] = ((1 << 28) | (1 << 30)).to_bytes(8, "little")
    body[128:136] = (0x3).to_bytes(8, "little")
    quote, td = parse_tdx(tdx_quote(version, bytes(body)))
    rtmrs = {f"rtmr{number}": rtmr for number, rtmr in enumerate(td.rtmrs)}
    for field, start in TD_FIELDS.items():
        value = rtmrs[field] if field in rtmrs else getattr(td, field)
        if start >= size:
            assert value is None
        else:
            assert value == body[start : start + len(value)], field
    assert td.attributes == {"sept_ve_disable", "pks"}
    assert td.kind is (TdBodyKind.TD_1_5 if version == 5 else TdBodyKind.TD_1_0)
    assert quote.header.version == version
    assert quote.chain == CHAIN


def test_every_field_of_an_enclave_is_read_from_its_place() -> None:
    body = bytearray(enclave_body(flags=0x85))
    body[16:20] = struct.pack("<I", 1)
    body[32:48], body[192:256], body[304:320] = b"\x61" * 16, b"\x62" * 64, b"\x63" * 16
    quote, enclave = parse_sgx(sgx_quote(bytes(body)))
    assert enclave.mr_enclave == b"\x11" * 32
    assert enclave.mr_signer == b"\x51" * 32
    assert (enclave.isv_prod_id, enclave.isv_svn, enclave.config_svn, enclave.misc_select) == (7, 9, 3, 1)
    assert (enclave.isv_ext_prod_id, enclave.config_id) == (b"\x61" * 16, b"\x62" * 64)
    assert (enclave.isv_family_id, enclave.report_data) == (b"\x63" * 16, REPORT_DATA)
    assert enclave.flags == {"init", "mode64bit", "kss"}
    assert (quote.header.qe_svn, quote.header.pce_svn) == (10, 15)


@pytest.mark.parametrize("name", QUOTES)
def test_a_quote_cut_short_anywhere_is_refused(name: str) -> None:
    quote = QUOTES[name]
    for size in [*range(800), *range(800, len(quote), 7), len(quote) - 1]:
        refused(quote[:size])


@pytest.mark.parametrize("name", QUOTES)
def test_zeros_may_follow_a_quote_and_nothing_else_may(name: str) -> None:
    quote = QUOTES[name]
    padded = quote + bytes(3000)
    assert parse(padded) == parse(quote)
    for at in (len(quote), len(quote) + 1000, len(padded) - 1):
        assert refused(padded[:at] + b"\x01" + padded[at + 1 :]) is Reason.RESERVED_NOT_ZERO


def test_a_quote_over_its_bound_is_refused_before_it_is_read() -> None:
    assert refused(tdx_quote() + bytes(33 << 10)) is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize("version", [0, 1, 2, 6, 0x0104])
def test_an_unknown_version_is_refused(version: int) -> None:
    assert refused(struct.pack("<H", version) + tdx_quote()[2:], parse_tdx) is Reason.REPORT_VERSION


def test_a_quote_of_one_tee_is_none_of_the_other() -> None:
    assert refused(sgx_quote(), parse_tdx) is Reason.REPORT_VERSION
    assert refused(tdx_quote(4), parse_sgx) is Reason.REPORT_VERSION
    assert refused(header(4, tee=0) + td_body() + signature(4)) is Reason.EVIDENCE_FORMAT
    assert refused(header(3, tee=0x81) + enclave_body() + signature(3)) is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize("algorithm", [0, 1, 3, 0x0202])
def test_there_is_one_algorithm(algorithm: int) -> None:
    for quote in QUOTES.values():
        assert refused(quote[:2] + struct.pack("<H", algorithm) + quote[4:]) is Reason.EVIDENCE_FORMAT


def test_the_quoting_enclave_is_intels() -> None:
    for quote in QUOTES.values():
        assert refused(quote[:12] + b"\x00" + quote[13:]) is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize("offset", range(8, 12))
def test_reserved_bytes_of_the_header_are_zero(offset: int) -> None:
    for version in (4, 5):
        quote = tdx_quote(version)
        assert refused(quote[:offset] + b"\x01" + quote[offset + 1 :]) is Reason.RESERVED_NOT_ZERO


@pytest.mark.parametrize("bit", [bit for bit in range(64) if bit not in TD_ATTRIBUTES.values()])
def test_td_attributes_have_known_bits_alone(bit: int) -> None:
    assert refused(with_field("td_attributes", (1 << 28 | 1 << bit).to_bytes(8, "little"))) is Reason.RESERVED_NOT_ZERO


@pytest.mark.parametrize("bit", [bit for bit in range(64) if bit not in SGX_ATTRIBUTES.values()])
def test_enclave_attributes_have_known_bits_alone(bit: int) -> None:
    assert refused(sgx_quote(enclave_body(flags=0x5 | 1 << bit))) is Reason.RESERVED_NOT_ZERO


def test_an_enclave_is_initialised() -> None:
    assert refused(sgx_quote(enclave_body(flags=0x4))) is Reason.GUEST_POLICY


@pytest.mark.parametrize("bit", range(64))
def test_xfam_has_the_bits_that_tdx_fixes(bit: int) -> None:
    allowed = 0x6DBE7
    flipped = (0x602E7 ^ 1 << bit).to_bytes(8, "little")
    if bit in (0, 1) or not allowed >> bit & 1:
        assert refused(with_field("xfam", flipped)) is Reason.GUEST_POLICY
    else:
        parse(with_field("xfam", flipped))


@pytest.mark.parametrize("offset", [20, 31, 96, 127, 160, 191, 262, 303])
def test_reserved_bytes_of_an_enclaves_report_are_zero(offset: int) -> None:
    assert refused(with_enclave(offset, b"\x01")) is Reason.RESERVED_NOT_ZERO
    qe = bytearray(enclave_body())
    qe[offset] = 1
    assert refused(header(4) + td_body() + signature(4, qe=bytes(qe))) is Reason.RESERVED_NOT_ZERO


@pytest.mark.parametrize(
    ("kind", "size"),
    [(0, 584), (1, 384), (1, 584), (4, 648), (4, 712), (2, 648), (3, 584), (2, 583), (3, 649), (2, 0), (3, 1 << 31)],
)
def test_a_version_5_body_has_its_kinds_size(kind: int, size: int) -> None:
    quote = tdx_quote(5)
    assert refused(quote[:48] + struct.pack("<HI", kind, size) + quote[54:]) is Reason.EVIDENCE_FORMAT


def test_a_second_svn_in_a_td_1_0_body_is_no_part_of_it() -> None:
    long = header(5) + struct.pack("<HI", 2, 584) + td_body(td_1_5=True) + signature(5)
    refused(long)
    assert parse_tdx(tdx_quote(5, td_body()))[1].tee_tcb_svn2 is None


@pytest.mark.parametrize("change", [-1, 1, 5, 1 << 12])
@pytest.mark.parametrize("place", ["section", "outer", "auth", "inner"])
def test_every_length_is_used_up_exactly(place: str, change: int) -> None:
    quote = bytearray(tdx_quote(4))
    section = 48 + 584
    offset, form = {
        "section": (section, "<I"),
        "outer": (section + 4 + 128 + 2, "<I"),
        "auth": (section + 4 + 128 + 6 + 448, "<H"),
        "inner": (section + 4 + 128 + 6 + 448 + 2 + 32 + 2, "<I"),
    }[place]
    (length,) = struct.unpack_from(form, quote, offset)
    struct.pack_into(form, quote, offset, (length + change) & (0xFFFF if form == "<H" else 0xFFFFFFFF))
    refused(bytes(quote))


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 6, 7])
def test_the_chain_of_the_pck_is_in_the_quote(kind: int) -> None:
    inner = enclave_body() + b"\x02" * 64 + struct.pack("<H", 0) + certification(kind, pem())
    section = b"\x03" * 128 + certification(6, inner)
    refused(header(4) + td_body() + struct.pack("<I", len(section)) + section)


def test_auth_data_of_the_quoting_enclave_is_bounded() -> None:
    parse(header(4) + td_body() + signature(4, auth=bytes(1024)))
    refused(header(4) + td_body() + signature(4, auth=bytes(1025)))


def chained(content: bytes) -> bytes:
    return header(4) + td_body() + signature(4, chain=content)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("ending", ["", "line", "line-nul", "nul"])
def test_quoting_libraries_end_the_chain_in_one_of_a_few_ways(line_end: bytes, ending: str) -> None:
    last = {"": b"", "line": line_end, "line-nul": line_end + b"\0", "nul": b"\0"}[ending]
    assert parse_tdx(chained(pem(line_end=line_end, last=last)))[0].chain == CHAIN


def flipped_base64() -> bytes:
    """Other unused bits in the last group, which decode to the same bytes."""
    text = pem((b"a", *CHAIN[1:]))
    assert b"YQ==" in text
    return text.replace(b"YQ==", b"YR==")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        pem(CHAIN[:2]),
        pem((*CHAIN, b"more")),
        pem(last=b"\n\n"),
        pem(last=b"\n\0\0"),
        pem(last=b" "),
        pem(last=b"\r\n"),
        b"\n" + pem(),
        b" " + pem(),
        b"subject=/CN=x\n" + pem(),
        pem().replace(b"\n", b"\r\n", 1),
        pem().replace(b"\n", b"\n\n", 1),
        pem().replace(b"-----END CERTIFICATE-----\n-----BEGIN", b"-----END CERTIFICATE-----\n\n-----BEGIN", 1),
        pem().replace(b"-----BEGIN CERTIFICATE-----", b"-----BEGIN X509 CERTIFICATE-----", 1),
        pem().replace(b"=\n", b"\n", 1),
        pem().replace(b"A", b"*", 1),
        pem().replace(b"A", b"\xff", 1),
        flipped_base64(),
    ],
    ids=lambda content: f"{len(content)}",
)
def test_a_chain_in_another_spelling_is_refused(content: bytes) -> None:
    refused(chained(content))


def test_lines_of_another_width_are_refused() -> None:
    text = pem()
    first = text.index(b"\n", 30)
    assert refused(chained(text[:first] + text[first + 1 :])) is Reason.CHAIN


@pytest.mark.parametrize("name", QUOTES)
def test_every_bit_of_what_no_signature_covers_is_looked_at(name: str) -> None:
    """Lengths, kinds, markers and line ends. The rest of the section is signatures, keys, reports and base64."""
    quote = QUOTES[name]
    chain_at = quote.index(b"-----BEGIN")
    held = parse(quote)
    for offset in range(chain_at, len(quote)):
        for bit in range(8):
            damaged = quote[:offset] + bytes([quote[offset] ^ 1 << bit]) + quote[offset + 1 :]
            try:
                parsed = parse(damaged)
            except AttestationError:
                continue
            assert parsed != held  # another certificate, which its signature or its digest will not fit


@given(st.binary(max_size=1500))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parser in (parse_tdx, parse_sgx):
        try:
            parser(data)
        except ProtocolError:
            continue


@given(st.sampled_from(sorted(QUOTES)), st.data())
def test_any_damage_is_parsed_or_refused(name: str, data: st.DataObject) -> None:
    quote = bytearray(QUOTES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(quote)))
        quote[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    try:
        parse(bytes(quote))
    except ProtocolError:
        return
