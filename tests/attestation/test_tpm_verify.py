"""TPM 2.0 evidence: who vouches for the key, what kind of key, its quote, and the values that came along."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.attestation import from_vector
from tests.attestation.conftest import refused
from tests.attestation.from_vector import tpm as tpm_vectors
from tests.attestation.quotes import (
    AIK_CERTIFICATE,
    ATTRIBUTES,
    EK_CERTIFICATE,
    Ak,
    Authority,
    Quote,
    draw_key,
    public_area,
    selection_bytes,
    sign,
    sized,
    u16,
    u32,
)
from tests.attestation.vectors import folder
from trusted.attestation.appraise import verify
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import Scheme
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.errors import Reason

DECRYPT, X509_SIGN, DUPLICATION = 1 << 17, 1 << 19, 1 << 11
REQUIRED = {"fixed_tpm": 1, "fixed_parent": 4, "sensitive_data_origin": 5, "restricted": 16, "sign": 18}


@pytest.fixture(scope="module")
def ak() -> Ak:
    """A key that the charter vouches for."""
    return Ak(draw_key(Scheme.ECDSA_P256_SHA256))


@pytest.fixture(scope="module")
def maker(now: datetime) -> Authority:
    """A TPM maker."""
    return Authority(now)


def with_parts(evidence: Evidence, **parts: bytes | None) -> Evidence:
    found = dict(evidence.parts) | {name.replace("_", "-"): content for name, content in parts.items()}
    return replace(evidence, parts=tuple(sorted((name, part) for name, part in found.items() if part is not None)))


@pytest.mark.parametrize("scheme", list(Scheme), ids=lambda scheme: scheme.value)
def test_a_quote_in_the_keys_own_scheme_holds(scheme: Scheme, now: datetime) -> None:
    ak = Ak(draw_key(scheme), scheme)
    verified = verify(ak.evidence(), [ak.root], now)
    claims = verified.claims
    assert claims.report_data == b"\x22" * 32
    assert claims.measurement == scheme.hash.digest(b"".join(Quote().values))
    assert claims.hardware_id == ak.sha256
    assert [(pcr.index, pcr.value) for pcr in claims.quote.pcrs] == list(zip((4, 9, 11), Quote().values, strict=True))
    assert (claims.quote.reset_count, claims.quote.restart_count, claims.quote.clock_safe) == (3, 1, True)
    assert (claims.product, claims.provider, claims.format) == ("test maker", None, EvidenceFormat.TPM)
    assert verified.root.assurance is Assurance.NONE


@pytest.mark.parametrize("scheme", [item for item in Scheme if item is not Scheme.ECDSA_P256_SHA256])
def test_a_signature_in_another_scheme_is_refused(ak: Ak, scheme: Scheme, now: datetime) -> None:
    """A signature never chooses how it is checked."""
    other = sign(draw_key(scheme), scheme, Quote().encode())
    assert refused(ak.evidence(signature=other), ak.root, now) is Reason.EVIDENCE_SIGNATURE


def test_a_bare_key_is_never_accepted(ak: Ak, maker: Authority, now: datetime) -> None:
    assert refused(ak.evidence(), maker.trust_root, now) is Reason.TRUST_ANCHOR
    stranger = Ak(draw_key(ak.scheme))
    assert refused(stranger.evidence(), ak.root, now) is Reason.TRUST_ANCHOR


def test_a_charters_key_does_not_vouch_for_another_format(ak: Ak, now: datetime) -> None:
    assert refused(ak.evidence(), TrustRoot(EvidenceFormat.SNP, "Genoa", ak.sha256), now) is Reason.TRUST_ANCHOR


def test_a_makers_certificate_vouches_for_a_key_without_end(ak: Ak, maker: Authority, now: datetime) -> None:
    verified = verify(ak.evidence(chain=maker.chain(ak)), [maker.trust_root], now)
    assert verified.root == maker.trust_root
    assert verified.not_after == now + timedelta(days=3650)


def test_a_certificate_for_another_key_is_refused(ak: Ak, maker: Authority, now: datetime) -> None:
    other = Ak(draw_key(ak.scheme))
    assert refused(ak.evidence(chain=maker.chain(other)), maker.trust_root, now) is Reason.KEY_BINDING


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"uses": (EK_CERTIFICATE,)}, Reason.KEY_BINDING),
        ({"uses": ()}, Reason.KEY_BINDING),
        ({"signs": False}, Reason.KEY_BINDING),
        ({"extra": x509.NameConstraints([x509.DNSName("a")], None)}, Reason.CHAIN),
        ({"path_length": None, "ca": False}, Reason.CHAIN),
        ({"key_cert_sign": False}, Reason.CHAIN),
    ],
    ids=["endorsement key", "no use", "does not sign", "unknown critical", "no authority", "signs no certificates"],
)
def test_a_chain_that_vouches_for_something_else_is_refused(
    ak: Ak, maker: Authority, now: datetime, changes: dict[str, Any], reason: Reason
) -> None:
    assert refused(ak.evidence(chain=maker.chain(ak, **changes)), maker.trust_root, now) is reason


def test_a_certificate_that_issues_others_is_no_attestation_keys(ak: Ak, maker: Authority, now: datetime) -> None:
    chain = (maker.leaf(ak, ca=True), *maker.chain(ak)[1:])
    assert refused(ak.evidence(chain=chain), maker.trust_root, now) is Reason.KEY_BINDING


def test_a_certificate_for_both_uses_is_accepted(ak: Ak, maker: Authority, now: datetime) -> None:
    chain = maker.chain(ak, uses=(EK_CERTIFICATE, AIK_CERTIFICATE))
    assert verify(ak.evidence(chain=chain), [maker.trust_root], now).root == maker.trust_root


def test_a_chain_is_refused_early_late_cut_reordered_or_damaged(ak: Ak, maker: Authority, now: datetime) -> None:
    leaf, middle, root = maker.chain(ak)
    day = timedelta(days=1)
    early = maker.leaf(ak, validity=(now + day, now + 2 * day))
    late = maker.leaf(ak, validity=(now - 2 * day, now - day))
    weak = leaf[:-1] + bytes([leaf[-1] ^ 1])
    for chain, reason in (
        ((early, middle, root), Reason.CERT_NOT_YET_VALID),
        ((late, middle, root), Reason.CERT_EXPIRED),
        ((root,), Reason.CHAIN),
        ((leaf, root), Reason.CHAIN),
        ((middle, leaf, root), Reason.CHAIN),
        ((leaf, middle), Reason.TRUST_ANCHOR),
        ((leaf, middle, root, b"junk"), Reason.TRUST_ANCHOR),
        ((b"junk", middle, root), Reason.CHAIN),
        ((weak, middle, root), Reason.CHAIN),
    ):
        assert refused(ak.evidence(chain=chain), maker.trust_root, now) is reason
    assert refused(ak.evidence(chain=(leaf, middle, root)), Authority(now).trust_root, now) is Reason.TRUST_ANCHOR


def test_a_chain_longer_than_its_authority_allows_is_refused(ak: Ak, maker: Authority, now: datetime) -> None:
    leaf, middle, root = maker.chain(ak)
    assert refused(ak.evidence(chain=(leaf, middle, middle, root)), maker.trust_root, now) is Reason.CHAIN


@pytest.mark.parametrize("bit", REQUIRED.values(), ids=REQUIRED)
def test_a_key_that_lacks_an_attribute_is_refused(ak: Ak, bit: int, now: datetime) -> None:
    area = public_area(ak.key, ak.scheme, attributes=ATTRIBUTES & ~(1 << bit))
    assert refused(ak.evidence(ak=area), ak.root, now) is Reason.KEY_BINDING


@pytest.mark.parametrize("bits", [DECRYPT, X509_SIGN, DUPLICATION])
def test_a_key_that_may_do_more_than_quote_is_refused(ak: Ak, bits: int, now: datetime) -> None:
    area = public_area(ak.key, ak.scheme, attributes=ATTRIBUTES | bits)
    assert refused(ak.evidence(ak=area), ak.root, now) is Reason.KEY_BINDING


def test_a_point_off_its_curve_is_refused(ak: Ak, now: datetime) -> None:
    area = bytearray(public_area(ak.key, ak.scheme))
    area[-1] ^= 1
    assert refused(ak.evidence(ak=bytes(area)), ak.root, now) is Reason.KEY_BINDING


def test_an_altered_pcr_value_is_refused(ak: Ak, now: datetime) -> None:
    good = b"".join(Quote().values)
    for offset in range(len(good)):
        values = good[:offset] + bytes([good[offset] ^ 1]) + good[offset + 1 :]
        assert refused(ak.evidence(pcrs=values), ak.root, now) is Reason.RUNTIME_MEASUREMENT


def test_values_in_another_order_fewer_or_more_are_refused(ak: Ak, now: datetime) -> None:
    four, nine, eleven = Quote().values
    for values in (nine + four + eleven, four + nine, four + nine + eleven + bytes(32), b""):
        assert refused(ak.evidence(pcrs=values), ak.root, now) is Reason.RUNTIME_MEASUREMENT


def test_values_of_the_other_bank_are_refused(ak: Ak, now: datetime) -> None:
    other = Quote(values=(b"\x04" * 48, b"\x09" * 48, b"\x0b" * 48), bank=Bank.SHA384)
    assert verify(ak.evidence(other), [ak.root], now).claims.quote.selections[0].bank is Bank.SHA384
    assert refused(ak.evidence(other, pcrs=b"".join(Quote().values)), ak.root, now) is Reason.RUNTIME_MEASUREMENT


def test_a_quote_over_two_banks_sums_up_both(ak: Ak, now: datetime) -> None:
    selections = u32(2) + selection_bytes(0x0B, (4,)) + selection_bytes(0x0C, (4,))
    quote = Quote(values=(b"\x01" * 32, b"\x02" * 48), selections=selections)
    claims = verify(ak.evidence(quote), [ak.root], now).claims
    assert [(pcr.bank, pcr.index, len(pcr.value)) for pcr in claims.quote.pcrs] == [
        (Bank.SHA256, 4, 32),
        (Bank.SHA384, 4, 48),
    ]


def test_a_reversed_signature_is_refused(now: datetime) -> None:
    """The negative test of kinvolk's library."""
    ak = Ak(draw_key(Scheme.RSASSA_SHA256), Scheme.RSASSA_SHA256)
    good = ak.evidence()
    signature = good.part("signature")
    reversed_ = signature[:6] + signature[6:][::-1]
    assert refused(with_parts(good, signature=reversed_), ak.root, now) is Reason.EVIDENCE_SIGNATURE


@pytest.mark.parametrize("part", ["ak", "pcrs", "signature"])
def test_evidence_without_one_of_its_parts_is_refused(ak: Ak, part: str, now: datetime) -> None:
    reason = Reason.RUNTIME_MEASUREMENT if part == "pcrs" else Reason.EVIDENCE_FORMAT
    assert refused(with_parts(ak.evidence(), **{part: None}), ak.root, now) is reason


def test_a_signature_over_another_quote_is_refused(ak: Ak, now: datetime) -> None:
    other = sign(ak.key, ak.scheme, Quote(extra_data=b"\x23" * 32).encode())
    assert refused(ak.evidence(signature=other), ak.root, now) is Reason.EVIDENCE_SIGNATURE


def test_zeros_for_a_signature_are_refused(ak: Ak, now: datetime) -> None:
    zeros = u16(0x18, 0x0B) + sized(bytes(32)) + sized(bytes(32))
    assert refused(ak.evidence(signature=zeros), ak.root, now) is Reason.EVIDENCE_SIGNATURE


def test_a_certificate_signed_with_sha1_is_refused(ak: Ak, maker: Authority, now: datetime) -> None:
    """No library here still signs with SHA-1, so its name is put where SHA-256 stood."""
    leaf, middle, root = maker.chain(ak, hash_=hashes.SHA256())
    sha256_oid, sha1_oid = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06072a8648ce3d0401")
    assert leaf.count(sha256_oid) == 2
    assert len(sha1_oid) == len(sha256_oid) - 1
    damaged = leaf.replace(sha256_oid, bytes.fromhex("06082a8648ce3d040301"))
    assert refused(ak.evidence(chain=(damaged, middle, root)), maker.trust_root, now) is Reason.CHAIN


# Real evidence.

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)


def loaded() -> from_vector.Loaded:
    path = folder("tpm", "rsa_quote_trustee")
    return tpm_vectors.load(path, json.loads((path / "provenance.json").read_text()))


def test_the_real_quote_holds_under_its_vouched_key_alone() -> None:
    vector = loaded()
    assert verify(vector.evidence, vector.roots, NOVEMBER).claims.measurement.hex().startswith("019de64c")
    stranger = TrustRoot(EvidenceFormat.TPM, "m", b"\x01" * 32)
    assert refused(vector.evidence, stranger, NOVEMBER) is Reason.TRUST_ANCHOR


def test_every_bit_of_the_real_quote_counts() -> None:
    vector = loaded()
    report = vector.evidence.report
    for position in range(8 * len(report)):
        changed = bytearray(report)
        changed[position // 8] ^= 1 << position % 8
        refused(replace(vector.evidence, report=bytes(changed)), vector.roots[0], NOVEMBER)


@pytest.mark.parametrize("part", ["signature", "pcrs"])
def test_every_bit_of_what_goes_with_the_real_quote_counts(part: str) -> None:
    vector = loaded()
    content = vector.evidence.part(part)
    for position in range(8 * len(content)):
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        refused(with_parts(vector.evidence, **{part: bytes(changed)}), vector.roots[0], NOVEMBER)
