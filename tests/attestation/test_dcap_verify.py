"""Real quotes of real Intel machines through the verifier: good at their time, refused when anything is changed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from types import ModuleType
from typing import Any

import pytest

from tests.attestation.from_vector import intel
from tests.attestation.intel_quotes import sgx_quote, tdx_quote
from tests.attestation.vectors import folder
from trusted.attestation.anchors import INTEL_ROOT, is_vendor_root
from trusted.attestation.appraise import verify
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import ccel
from trusted.attestation.formats.dcap import parse_tdx
from trusted.attestation.intel_claims import SgxClaims, TcbStatus, TdxClaims
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.attestation.verify import dcap, intel_collateral
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

TDX, SGX = EvidenceFormat.TDX, EvidenceFormat.SGX
TDX_4, TDX_5, SGX_3 = "tdx/v4_uptodate_phala", "tdx/v5_td15_uptodate_google", "sgx/v3_config_and_sw_hardening_phala"
VALID = (TDX_4, "tdx/v4_uptodate_dstack", "tdx/v4_outofdate_gcp_2025-02", TDX_5, SGX_3)
OTHER_ROOT = sha256(b"no root of Intel's")


@cache
def load(name: str) -> tuple[Evidence, datetime]:
    """One vector, and the first time that its provenance names."""
    path = folder(*name.split("/"))
    format = EvidenceFormat(name.partition("/")[0])
    case = json.loads((path / "provenance.json").read_text())["cases"][0]
    return intel.evidence_of(format, path), datetime.fromtimestamp(case["unix"], UTC)


def check(evidence: Evidence, now: datetime) -> VerifiedEvidence:
    return verify(evidence, [intel.root_of(evidence.format)], now)


def refused(evidence: Evidence, now: datetime, *roots: TrustRoot) -> Reason:
    with pytest.raises(AttestationError) as error:
        verify(evidence, roots or [intel.root_of(evidence.format)], now)
    return error.value.reason


def flipped(data: bytes, offset: int, mask: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1 :]


def with_collateral(evidence: Evidence, **changes: Any) -> Evidence:
    """The same quote with some of Intel's statements changed; None takes one away."""
    fields = {**json.loads(evidence.part("collateral")), **changes}
    content = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
    return replace(evidence, parts=(("collateral", content),))


def statements(name: str) -> dict[str, Any]:
    return dict(json.loads(load(name)[0].part("collateral")))


def test_the_pinned_root_is_intels() -> None:
    der = (folder("anchors", "intel") / "Intel_SGX_Root_CA.der").read_bytes()
    assert sha256(der) == INTEL_ROOT
    for format in (TDX, SGX):
        assert is_vendor_root(format, INTEL_ROOT)
        assert not is_vendor_root(format, OTHER_ROOT)
        assert intel.root_of(format).assurance is Assurance.HARDWARE


@pytest.mark.parametrize("name", VALID)
def test_a_genuine_quote_verifies_at_its_time_with_all_its_claims(name: str) -> None:
    evidence, now = load(name)
    verified = check(evidence, now)
    claims = verified.claims
    assert isinstance(claims, TdxClaims | SgxClaims)
    assert claims.report_data in evidence.report
    assert claims.hardware_id == claims.platform.pck.ppid
    assert any(claims.hardware_id)
    window = claims.platform.collateral
    assert now < verified.not_after <= min(window.tcb_next, window.qe_next)
    assert verified.evidence_digest == evidence.digest


def test_status_and_advisories_are_claims_and_no_verdict() -> None:
    evidence, now = load("tdx/v4_outofdate_gcp_2025-02")
    tcb = check(evidence, now).claims.platform.tcb  # type: ignore[attr-defined]
    assert tcb.status is TcbStatus.OUT_OF_DATE
    assert tcb.advisories == ("INTEL-SA-00960", "INTEL-SA-00982", "INTEL-SA-00986")
    assert tcb.platform.date == datetime(2023, 8, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tdx/bad_v4_debug", Reason.DEBUG),
        ("sgx/bad_v3_debug_occlum", Reason.DEBUG),
        ("tdx/bad_v5_service_td_alibaba", Reason.MIGRATABLE),
        ("tdx/bad_v5_no_matching_tcb_trustee", Reason.TCB_FLOOR),
        ("tdx/bad_v4_no_matching_tcb_google", Reason.TCB_FLOOR),
        ("tdx/v4_azure_no_sept_ve_disable", Reason.GUEST_POLICY),
    ],
)
def test_a_genuine_quote_of_what_nobody_may_accept_is_refused(name: str, reason: Reason) -> None:
    assert refused(*load(name)) is reason


def test_azures_guests_are_refused_in_words_that_name_them() -> None:
    evidence, now = load("tdx/v4_azure_no_sept_ve_disable")
    with pytest.raises(AttestationError, match=r"SEPT_VE_DISABLE must be set.*Azure.*not supported"):
        check(evidence, now)


def test_words_after_a_real_quote_are_refused_and_zeros_are_not() -> None:
    path = folder("tdx", "bad_v4_no_matching_tcb_google")
    evidence, now = load("tdx/bad_v4_no_matching_tcb_google")
    assert refused(replace(evidence, report=(path / "quote.bin").read_bytes()), now) is Reason.RESERVED_NOT_ZERO
    evidence, now = load("tdx/v4_outofdate_gcp_2025-02")
    assert len(evidence.report) == 8000
    check(evidence, now)
    assert refused(replace(evidence, report=evidence.report + b"\x01"), now) is Reason.RESERVED_NOT_ZERO


@pytest.mark.parametrize("name", [TDX_4, SGX_3])
def test_a_bit_flipped_in_any_byte_of_a_real_quote_is_refused(name: str) -> None:
    evidence, now = load(name)
    for offset in range(len(evidence.report)):
        with pytest.raises(AttestationError):
            check(replace(evidence, report=flipped(evidence.report, offset, 1 << offset % 8)), now)


@pytest.mark.slow
@pytest.mark.parametrize("name", [TDX_4, TDX_5, SGX_3])
def test_every_single_bit_flipped_of_a_real_quote_is_refused(name: str) -> None:
    evidence, now = load(name)
    for offset in range(len(evidence.report)):
        for bit in range(8):
            with pytest.raises(AttestationError):
                check(replace(evidence, report=flipped(evidence.report, offset, 1 << bit)), now)


# What each byte belongs to, and one of the reasons that its damage has: header, body, signature, key, QE and chain.
_SECTION = 632
_PLACES = {
    "version": (0, {Reason.REPORT_VERSION, Reason.EVIDENCE_FORMAT}),
    "user data in the header": (40, {Reason.EVIDENCE_SIGNATURE}),
    "body: MRTD": (48 + 136, {Reason.EVIDENCE_SIGNATURE}),
    "body: REPORTDATA": (48 + 583, {Reason.EVIDENCE_SIGNATURE}),
    "signed data size": (_SECTION, {Reason.EVIDENCE_FORMAT, Reason.RESERVED_NOT_ZERO}),
    "signature": (_SECTION + 4, {Reason.EVIDENCE_SIGNATURE}),
    "attestation key": (_SECTION + 4 + 64, {Reason.KEY_BINDING}),
    "QE report: MISCSELECT": (_SECTION + 138 + 16, {Reason.EVIDENCE_SIGNATURE}),
    "QE report: ATTRIBUTES": (_SECTION + 138 + 56, {Reason.EVIDENCE_SIGNATURE}),
    "QE report: MRSIGNER": (_SECTION + 138 + 128, {Reason.EVIDENCE_SIGNATURE}),
    "QE report: ISVPRODID": (_SECTION + 138 + 256, {Reason.EVIDENCE_SIGNATURE}),
    "QE report: ISVSVN": (_SECTION + 138 + 258, {Reason.EVIDENCE_SIGNATURE}),
    "QE report signature": (_SECTION + 138 + 384, {Reason.EVIDENCE_SIGNATURE}),
    "QE authentication data": (_SECTION + 138 + 450, {Reason.KEY_BINDING}),
}


@pytest.mark.parametrize("place", _PLACES)
def test_each_part_of_a_quote_is_refused_for_its_own_reason(place: str) -> None:
    evidence, now = load(TDX_4)
    offset, reasons = _PLACES[place]
    assert refused(replace(evidence, report=flipped(evidence.report, offset, 1)), now) in reasons


@pytest.mark.parametrize("place", [0, 1, 2], ids=["pck", "intermediate", "root"])
def test_a_certificate_with_any_byte_changed_is_refused(place: int) -> None:
    evidence, now = load(TDX_4)
    at = -1
    for _ in range(place + 1):
        at = evidence.report.index(b"-----BEGIN CERTIFICATE-----\n", at + 1)
    end = evidence.report.index(b"-----END", at)
    for offset in range(at + 28, end, 5):
        byte = evidence.report[offset]
        if byte != 0x0A:  # another letter of base64, so that the parser lets it through
            other = b"A" if byte != 0x41 else b"B"
            damaged = evidence.report[:offset] + other + evidence.report[offset + 1 :]
            reason = refused(replace(evidence, report=damaged), now)
            assert reason in ({Reason.TRUST_ANCHOR} if place == 2 else set(Reason))


def test_another_root_is_refused() -> None:
    for name in (TDX_4, SGX_3):
        evidence, now = load(name)
        product = evidence.format.value.upper()
        assert refused(evidence, now, TrustRoot(evidence.format, product, OTHER_ROOT)) is Reason.TRUST_ANCHOR
        other = "SGX" if product == "TDX" else "TDX"
        assert refused(evidence, now, TrustRoot(evidence.format, other, INTEL_ROOT)) is Reason.PRODUCT
        with pytest.raises(AttestationError) as error:
            verify(evidence, [], now)
        assert error.value.reason is Reason.TRUST_ANCHOR


def test_a_root_for_one_tee_vouches_for_no_other() -> None:
    evidence, now = load(TDX_4)
    assert refused(evidence, now, intel.root_of(SGX)) is Reason.TRUST_ANCHOR


def test_a_quote_of_one_tee_is_refused_as_the_other() -> None:
    for name, format in ((TDX_4, SGX), (TDX_5, SGX), (SGX_3, TDX)):
        evidence, now = load(name)
        assert refused(replace(evidence, format=format), now) is Reason.REPORT_VERSION


# The six kinds of collateral that run out, and when they do in the vector: read from the vector itself.
def _ends(name: str) -> dict[str, datetime]:
    from cryptography import x509

    fields = statements(name)
    chains = {
        "tcb chain": fields["tcb_info_issuer_chain"],
        "qe chain": fields["qe_identity_issuer_chain"],
    }
    lists = {
        key: x509.load_der_x509_crl(bytes.fromhex(fields[key])).next_update_utc for key in ("root_ca_crl", "pck_crl")
    }
    ends = {
        "tcb_info": json.loads(fields["tcb_info"])["nextUpdate"],
        "qe_identity": json.loads(fields["qe_identity"])["nextUpdate"],
    }
    found = {key: datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) for key, text in ends.items()}
    found |= {key: end for key, end in lists.items() if end is not None}
    for key, text in chains.items():
        certificates = x509.load_pem_x509_certificates(text.encode())
        found[key] = min(certificate.not_valid_after_utc for certificate in certificates)
    return found


@pytest.mark.parametrize("name", [TDX_4, TDX_5, SGX_3])
@pytest.mark.parametrize("kind", ["tcb_info", "qe_identity", "root_ca_crl", "pck_crl", "tcb chain", "qe chain"])
def test_collateral_past_its_end_is_refused(name: str, kind: str) -> None:
    evidence, _ = load(name)
    reason = refused(evidence, _ends(name)[kind] + timedelta(seconds=1))
    assert reason in (Reason.CERT_EXPIRED, Reason.CRL_STALE)


@pytest.mark.parametrize("name", [TDX_4, TDX_5, SGX_3])
def test_the_first_end_is_the_end_of_the_evidence(name: str) -> None:
    evidence, now = load(name)
    first = min(_ends(name).values())
    assert check(evidence, now).not_after == first
    check(evidence, first - timedelta(seconds=1))
    refused(evidence, first + timedelta(microseconds=1))


@pytest.mark.parametrize("name", [TDX_4, TDX_5, SGX_3])
def test_collateral_from_the_future_is_refused(name: str) -> None:
    evidence, _ = load(name)
    for kind in ("tcb_info", "qe_identity"):
        issued = datetime.strptime(json.loads(statements(name)[kind])["issueDate"], "%Y-%m-%dT%H:%M:%SZ")
        assert refused(evidence, issued.replace(tzinfo=UTC) - timedelta(seconds=1)) is Reason.CERT_NOT_YET_VALID


@pytest.mark.parametrize("year", [1960, 1970, 2000, 2033, 2050, 9000])
def test_any_other_time_is_refused(year: int) -> None:
    evidence, _ = load(TDX_4)
    refused(evidence, datetime(year, 1, 1, tzinfo=UTC))


def test_collateral_of_another_kind_of_platform_is_refused() -> None:
    mine, _ = load(TDX_4)
    other, now = load(TDX_5)
    assert refused(replace(mine, parts=other.parts), now) is Reason.CHIP_BINDING


def test_what_intel_says_of_sgx_does_not_hold_for_tdx_nor_the_other_way_round() -> None:
    names = ("tcb_info", "tcb_info_issuer_chain", "tcb_info_signature")
    qe_names = ("qe_identity", "qe_identity_issuer_chain", "qe_identity_signature")
    for mine, other in ((TDX_4, SGX_3), (SGX_3, TDX_4)):
        evidence, now = load(mine)
        theirs = statements(other)
        assert refused(with_collateral(evidence, **{key: theirs[key] for key in names}), now) is Reason.CHIP_BINDING
        assert refused(with_collateral(evidence, **{key: theirs[key] for key in qe_names}), now) is Reason.KEY_BINDING


@pytest.mark.parametrize("kind", ["tcb_info", "qe_identity"])
def test_a_word_of_intels_statements_changed_is_refused(kind: str) -> None:
    evidence, now = load(TDX_4)
    text = statements(TDX_4)[kind]
    changes: list[Callable[[str], str]] = [
        lambda said: said.replace("UpToDate", "OutOfDate", 1),
        lambda said: said.replace("OutOfDate", "UpToDate") + " ",
        lambda said: said.replace("nextUpdate", "nextupdate", 1),
        lambda said: said.replace("2025-07-19", "2035-07-19"),
        lambda said: said.replace('"isvsvn":', '"isvsvn": '),
        lambda said: said.replace("mrsigner", "mrSigner", 1),
        lambda said: said.replace('"attributesMask":"F', '"attributesMask":"0', 1),
    ]
    for change in changes:
        changed = change(text)
        if changed != text:
            assert refused(with_collateral(evidence, **{kind: changed}), now) in (Reason.CHAIN, Reason.EVIDENCE_FORMAT)


@pytest.mark.parametrize("kind", ["tcb_info_signature", "qe_identity_signature", "root_ca_crl", "pck_crl"])
def test_a_byte_of_a_signature_or_list_changed_is_refused(kind: str) -> None:
    evidence, now = load(TDX_4)
    content = bytes.fromhex(statements(TDX_4)[kind])
    for offset in range(0, len(content), 1 + len(content) // 60):
        changed = flipped(content, offset, 1 << offset % 8)
        refused(with_collateral(evidence, **{kind: changed.hex()}), now)


def test_lists_that_are_empty_swapped_or_of_another_ca_are_refused() -> None:
    evidence, now = load(TDX_4)
    mine, processor = statements(TDX_4), statements(SGX_3)
    for changes in (
        {"root_ca_crl": ""},
        {"pck_crl": ""},
        {"pck_crl": mine["root_ca_crl"]},
        {"root_ca_crl": mine["pck_crl"]},
        {"pck_crl": processor["pck_crl"]},
    ):
        assert refused(with_collateral(evidence, **changes), now) in (Reason.CHAIN, Reason.CRL_STALE, Reason.REVOKED)


def test_a_revoked_key_or_ca_is_refused_for_that() -> None:
    evidence, now = load(TDX_4)
    collateral = intel_collateral.read(evidence.part("collateral"))
    chain = intel_collateral.read_chain(parse_tdx(evidence.report)[0].chain)
    intel_collateral.require_current(collateral, chain, now)
    pck, authority, _ = chain
    for revoking in (
        replace(collateral, pck_crl=replace(collateral.pck_crl, revoked=frozenset({pck.serial}))),
        replace(collateral, root_crl=replace(collateral.root_crl, revoked=frozenset({authority.serial}))),
    ):
        with pytest.raises(AttestationError) as error:
            intel_collateral.require_current(revoking, chain, now)
        assert error.value.reason is Reason.REVOKED


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_certificate_of_the_quote_outside_of_its_dates_is_refused(place: int) -> None:
    evidence, now = load(TDX_4)
    collateral = intel_collateral.read(evidence.part("collateral"))
    chain = list(intel_collateral.read_chain(parse_tdx(evidence.report)[0].chain))
    changes: list[tuple[dict[str, Any], Reason]] = [
        ({"not_after": now - timedelta(seconds=1)}, Reason.CERT_EXPIRED),
        ({"not_before": now + timedelta(seconds=1)}, Reason.CERT_NOT_YET_VALID),
    ]
    for change, reason in changes:
        other = [*chain[:place], replace(chain[place], **change), *chain[place + 1 :]]
        with pytest.raises(AttestationError) as error:
            intel_collateral.require_current(collateral, tuple(other), now)
        assert error.value.reason is reason


@pytest.mark.parametrize("chain", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_a_signing_chain_that_is_missing_or_anothers_is_refused(chain: str) -> None:
    evidence, now = load(TDX_4)
    issuer = statements(TDX_4)["pck_crl_issuer_chain"]
    text = statements(TDX_4)[chain]
    for changed in ("", issuer, text.replace("M", "N", 3)):
        refused(with_collateral(evidence, **{chain: changed}), now)


def test_collateral_is_intels_statements_and_nothing_else() -> None:
    evidence, now = load(TDX_4)
    fields = statements(TDX_4)
    for part in (b"", b"{}", b"[]", b"null", b"not JSON", b"\xff", b"[" * 100_000, json.dumps([fields]).encode()):
        parts = (("collateral", part),) if part else ()
        assert refused(replace(evidence, parts=parts), now) is Reason.EVIDENCE_FORMAT
    for name in fields:
        assert refused(with_collateral(evidence, **{name: None}), now) is Reason.EVIDENCE_FORMAT
        assert refused(with_collateral(evidence, **{name: 7}), now) is Reason.EVIDENCE_FORMAT
    assert refused(with_collateral(evidence, more="x"), now) is Reason.EVIDENCE_FORMAT
    twice = evidence.part("collateral").rstrip().removesuffix(b"}") + b',"tcb_info":"{}"}'
    assert refused(replace(evidence, parts=(("collateral", twice),)), now) is Reason.EVIDENCE_FORMAT


def test_a_chain_beside_the_quote_replaces_nothing() -> None:
    evidence, now = load(TDX_4)
    check(with_collateral(evidence, pck_certificate_chain="anything"), now)


def test_nothing_travels_along_that_nobody_looks_at() -> None:
    evidence, now = load(TDX_4)
    for more in (
        replace(evidence, certificates=(b"certificate",)),
        replace(evidence, crl=b"list"),
        replace(evidence, parts=(*evidence.parts, ("extra", b""))),
    ):
        assert refused(more, now) is Reason.EVIDENCE_FORMAT
    sgx, then = load(SGX_3)
    assert refused(replace(sgx, parts=(*sgx.parts, ("event-log", b""))), then) is Reason.EVIDENCE_FORMAT


def test_an_event_log_explains_the_registers_that_it_leads_to() -> None:
    evidence, now = load(TDX_4)
    rtmrs = parse_tdx(evidence.report)[1].rtmrs
    assert rtmrs[3] == bytes(48)
    head = b"Spec ID Event03\0" + bytes.fromhex("00000000 00020002 01000000 0c003000 00")
    first = (1).to_bytes(4, "little") + (3).to_bytes(4, "little") + bytes(20) + len(head).to_bytes(4, "little") + head
    log = first + ccel.encode_event(0, 6, bytes(48), b"not what was measured")
    with_log = replace(evidence, parts=(*evidence.parts, ("event-log", log + b"\xff" * 100)))
    claims = check(with_log, now).claims
    assert isinstance(claims, TdxClaims)
    assert claims.events == (None, None, None, ())
    assert check(evidence, now).claims.events is None  # type: ignore[attr-defined]
    broken = replace(evidence, parts=(*evidence.parts, ("event-log", log[:-1])))
    assert refused(broken, now) is Reason.RUNTIME_MEASUREMENT


def test_a_quote_that_nobody_signed_is_refused() -> None:
    for name, quote in ((TDX_4, tdx_quote(4)), (TDX_4, tdx_quote(5)), (SGX_3, sgx_quote())):
        evidence, now = load(name)
        assert refused(replace(evidence, report=quote), now) is Reason.TRUST_ANCHOR


class PanicException(BaseException):
    """What pyo3 raises for a panic in Rust: no Exception."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PanicException("index out of bounds"), Reason.EVIDENCE_FORMAT),
        (TypeError("not bytes"), Reason.EVIDENCE_FORMAT),
        (OverflowError("too big"), Reason.EVIDENCE_FORMAT),
        (ValueError("Verification failed: something new"), Reason.EVIDENCE_SIGNATURE),
        (ValueError("QE ISVPRODID mismatch: expected 2, got 3"), Reason.KEY_BINDING),
        (ValueError("QE MISCSELECT mismatch: expected 0, got 1"), Reason.KEY_BINDING),
        (ValueError("QE MRSIGNER mismatch: expected ab, got cd"), Reason.KEY_BINDING),
        (ValueError("QE ATTRIBUTES mismatch at byte 0"), Reason.KEY_BINDING),
        (ValueError("TDX module MRSIGNER mismatch: expected 00, got 01"), Reason.TCB_BINDING),
        (ValueError("TDX module SEAMATTRIBUTES has bits set outside mask at byte 1"), Reason.TCB_BINDING),
        (ValueError("PceId mismatch"), Reason.CHIP_BINDING),
        (ValueError("TCB status is invalid: Revoked"), Reason.REVOKED),
        (ValueError("CertRevoked"), Reason.REVOKED),
        (ValueError("CertExpired { time: 1, not_after: 0 }"), Reason.CERT_EXPIRED),
        (ValueError("CertNotValidYet { time: 0, not_before: 1 }"), Reason.CERT_NOT_YET_VALID),
        (ValueError("TD profiling is enabled"), Reason.DEBUG),
        (ValueError("TD migration is enabled"), Reason.MIGRATABLE),
        (ValueError("SERVTD_EXT is enabled"), Reason.MIGRATABLE),
    ],
    ids=str,
)
def test_whatever_the_library_says_is_a_refusal(
    error: BaseException, reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence, now = load(TDX_4)
    check(evidence, now)  # the collateral is read with the real library
    module: Any = ModuleType("dcap_qvl")

    def verifier(root: bytes) -> None:
        raise error

    module.QuoteVerifier = verifier
    module.QuotePolicy = type("QuotePolicy", (), {"claims_only": staticmethod(lambda now: now)})
    monkeypatch.setitem(sys.modules, "dcap_qvl", module)
    assert refused(evidence, now) is reason


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_what_is_no_panic_is_not_swallowed(interrupt: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, now = load(TDX_4)
    check(evidence, now)
    module: Any = ModuleType("dcap_qvl")
    module.QuoteVerifier = lambda root: (_ for _ in ()).throw(interrupt())
    monkeypatch.setitem(sys.modules, "dcap_qvl", module)
    with pytest.raises(interrupt):
        check(evidence, now)


def test_without_the_library_the_evidence_is_refused_and_the_extra_named(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, now = load(TDX_4)
    monkeypatch.setitem(sys.modules, "dcap_qvl", None)
    with pytest.raises(AttestationError, match="install the extra `tdx`") as error:
        check(evidence, now)
    assert error.value.reason is Reason.EVIDENCE_FORMAT


def test_both_readers_of_a_quote_must_agree() -> None:
    evidence, now = load(TDX_4)
    body = parse_tdx(evidence.report)[1]
    check(evidence, now)
    report = {"TD10": {"mr_td": "00", "td_attributes": "00", "mr_config_id": "00", "report_data": "00"}}
    with pytest.raises(AttestationError) as error:
        dcap._require_same(report, body)
    assert error.value.reason is Reason.EVIDENCE_FORMAT
