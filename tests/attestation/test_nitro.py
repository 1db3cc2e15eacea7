"""Nitro documents: real ones, and forged ones with one thing wrong each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attestation.cose_forge import CHAIN, LEAF, MODULE, Forged, key, nitro, sign1
from tests.attestation.from_vector import Loaded
from tests.attestation.from_vector import nitro as from_vector
from tests.attestation.vectors import folder
from trusted.attestation.anchors import AWS_ROOT, is_vendor_root
from trusted.attestation.appraise import Expected, appraise, examine, verify
from trusted.attestation.binding import short_nonce
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import cbor
from trusted.attestation.formats.nitro import parse
from trusted.attestation.policies.check import Verdict
from trusted.attestation.policies.nitro import KNOBS, NitroPolicy, strict_nitro_policy
from trusted.attestation.policies.nitro_checks import KNOB_CHECKS
from trusted.attestation.policies.rules import Demand, Permission, Skip
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.errors import AttestationError, ProtocolError, Reason, WireError

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
REPORT_DATA = b"\x22" * 64
EXPECTED = Expected(REPORT_DATA, b"\x33" * 32)
NONCE = short_nonce(REPORT_DATA)
PCR = {index: bytes([index + 1]) * 48 for index in (0, 1, 2, 3, 4, 8)}
NAMES = [knob.name for knob in KNOBS]


def real(name: str) -> tuple[Loaded, datetime]:
    path = folder("nitro", name)
    provenance = json.loads((path / "provenance.json").read_text())
    return from_vector.load(path, provenance), datetime.fromtimestamp(provenance["cases"][0]["unix"], UTC)


def policy(**changes: Any) -> NitroPolicy:
    return replace(strict_nitro_policy([PCR[0]], assurance=Assurance.NONE), **changes)


def why_refused(forged: Forged, now: datetime = NOW) -> Reason:
    with pytest.raises(AttestationError) as error:
        verify(forged.evidence, [forged.root], now)
    return error.value.reason


def why_not_appraised(forged: Forged, applied: NitroPolicy, now: datetime = NOW) -> Reason:
    verified = verify(forged.evidence, [forged.root], NOW)
    with pytest.raises(AttestationError) as error:
        appraise(verified, applied, EXPECTED, now)
    return error.value.reason


def test_a_document_for_this_session_is_admitted() -> None:
    forged = nitro(NOW, nonce=NONCE)
    verified = verify(forged.evidence, [forged.root], NOW)
    result = appraise(verified, policy(), EXPECTED, NOW)
    assert result.hardware_id == MODULE.encode()
    assert result.provider == "aws"
    assert result.measurement == PCR[0]
    assert result.expires == NOW + timedelta(hours=3)


def test_the_pinned_root_is_the_one_that_aws_publishes() -> None:
    assert is_vendor_root(EvidenceFormat.NITRO, AWS_ROOT)
    assert TrustRoot(EvidenceFormat.NITRO, "Nitro", AWS_ROOT).assurance is Assurance.HARDWARE
    assert nitro(NOW).root.assurance is Assurance.NONE


def test_a_real_document_of_this_very_session_would_be_admitted() -> None:
    loaded, now = real("valid_dstack_attest")
    verified = verify(loaded.evidence, loaded.roots, now)
    expected = Expected(verified.claims.report_data, bytes(32))
    assert appraise(verified, loaded.policy, expected, now).assurance is Assurance.HARDWARE


@pytest.mark.parametrize("name", ["debug_with_nonce_2023", "debug_with_pubkey_2022"])
def test_a_real_debug_enclave_is_refused(name: str) -> None:
    loaded, now = real(name)
    checks = examine(verify(loaded.evidence, loaded.roots, now), loaded.policy, EXPECTED, now)
    failed = {check.claim: check.reason for check in checks if check.verdict is Verdict.FAIL}
    assert failed == {"debug": Reason.DEBUG, "report_data": Reason.REPORT_DATA}


def test_a_real_document_does_not_hold_before_or_after_its_hours() -> None:
    loaded, now = real("valid_dstack_attest")
    for when, reason in ((-timedelta(seconds=5), Reason.CERT_NOT_YET_VALID), (timedelta(hours=3), Reason.CERT_EXPIRED)):
        with pytest.raises(AttestationError) as error:
            verify(loaded.evidence, loaded.roots, now + when)
        assert error.value.reason is reason


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("masks", [(0x04,), pytest.param((1, 2, 8, 16, 32, 64, 128, 255), marks=pytest.mark.slow)])
def test_every_byte_of_a_real_document_counts(masks: tuple[int, ...]) -> None:
    loaded, now = real("valid_dstack_attest")
    report = loaded.evidence.report
    for offset in range(len(report)):
        for mask in masks:
            changed = report[:offset] + bytes([report[offset] ^ mask]) + report[offset + 1 :]
            with pytest.raises(AttestationError):
                verify(replace(loaded.evidence, report=changed), loaded.roots, now)


@pytest.mark.parametrize("change", [lambda report: report + b"\0", lambda report: report[:-1], lambda report: b""])
def test_a_document_is_its_bytes_and_no_other(change: Callable[[bytes], bytes]) -> None:
    loaded, now = real("valid_with_nonce_2022")
    with pytest.raises(AttestationError) as error:
        verify(replace(loaded.evidence, report=change(loaded.evidence.report)), loaded.roots, now)
    assert error.value.reason is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize(
    "beside",
    [{"certificates": (b"der",)}, {"crl": b"der"}, {"parts": (("cpak", b"der"),)}],
    ids=lambda item: next(iter(item)),
)
def test_nothing_may_come_along_beside_a_document(beside: dict[str, Any]) -> None:
    forged = nitro(NOW)
    assert why_refused(replace(forged, evidence=replace(forged.evidence, **beside))) is Reason.EVIDENCE_FORMAT


MALFORMED: dict[str, dict[str, Any]] = {
    "no module": {"without": ("module_id",)},
    "empty module": {"module_id": ""},
    "module with a line break": {"module_id": "i-0\n"},
    "module beyond ASCII": {"module_id": "i-é"},
    "long module": {"module_id": "i" * 129},
    "module of bytes": {"module_id": b"i-0"},
    "another digest": {"digest": "SHA256"},
    "no digest": {"without": ("digest",)},
    "no time": {"without": ("timestamp",)},
    "time before 1970": {"timestamp": -1},
    "time after everything": {"timestamp": 1 << 60},
    "time as text": {"timestamp": "now"},
    "time as a flag": {"timestamp": True},
    "no registers": {"pcrs": {}},
    "registers as a list": {"pcrs": (bytes(48),)},
    "no PCR 2": {"pcrs": {0: bytes(48), 1: bytes(48)}},
    "short register": {"pcrs": {0: bytes(47), 1: bytes(48), 2: bytes(48)}},
    "long register": {"pcrs": {0: bytes(49), 1: bytes(48), 2: bytes(48)}},
    "register 32": {"pcrs": {0: bytes(48), 1: bytes(48), 2: bytes(48), 32: bytes(48)}},
    "register by name": {"pcrs": {0: bytes(48), 1: bytes(48), 2: bytes(48), "3": bytes(48)}},
    "no certificate": {"without": ("certificate",)},
    "empty certificate": {"certificate": b""},
    "long certificate": {"certificate": bytes(1025)},
    "no bundle": {"without": ("cabundle",)},
    "empty bundle": {"cabundle": ()},
    "long bundle": {"cabundle": (b"der",) * 8},
    "bundle of text": {"cabundle": ("der",)},
    "long user data": {"user_data": bytes(513)},
    "long nonce": {"nonce": bytes(513)},
    "empty public key": {"public_key": b""},
    "long public key": {"public_key": bytes(1025)},
    "a field of another format": {"nitrotpm_pcrs": {}},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_document_of_another_form_is_refused(name: str) -> None:
    assert why_refused(nitro(NOW, **MALFORMED[name])) is Reason.EVIDENCE_FORMAT


def test_optional_fields_may_be_absent_or_null() -> None:
    forged = nitro(NOW, without=("public_key", "nonce"))
    claims = verify(forged.evidence, [forged.root], NOW).claims
    assert (claims.public_key, claims.nonce) == (None, None)


def envelope(**changes: Any) -> Forged:
    """A document whose envelope is signed well, and differs."""
    forged = nitro(NOW)
    payload = parse(forged.evidence.report).envelope.payload
    value = sign1(payload, key(LEAF), **{"tagged": False, **changes})
    return replace(forged, evidence=replace(forged.evidence, report=cbor.encode(value)))


def test_only_the_one_algorithm_and_no_unsigned_header() -> None:
    good = envelope()
    verify(good.evidence, [good.root], NOW)
    assert why_refused(envelope(tagged=True)) is Reason.EVIDENCE_FORMAT
    for protected in ({1: -7}, {1: -36}, {}, {1: -35, 4: b"kid"}):
        assert why_refused(envelope(protected=cbor.encode(protected))) is Reason.EVIDENCE_FORMAT
    assert why_refused(envelope(protected=b"")) is Reason.EVIDENCE_FORMAT
    assert why_refused(envelope(unprotected={4: b"kid"})) is Reason.EVIDENCE_FORMAT


def test_another_root_is_refused() -> None:
    forged = nitro(NOW)
    assert why_refused(replace(forged, root=nitro(NOW).root)) is Reason.TRUST_ANCHOR
    assert why_refused(replace(forged, root=TrustRoot(EvidenceFormat.NITRO, "Nitro", AWS_ROOT))) is Reason.TRUST_ANCHOR
    assert why_refused(replace(forged, root=replace(forged.root, product="Genoa"))) is Reason.TRUST_ANCHOR


BAD_CHAINS: dict[str, tuple[dict[str, Any], Reason]] = {
    "instance is no authority": ({"instance": replace(CHAIN["instance"], ca=False, path_length=None)}, Reason.CHAIN),
    "instance may not sign": ({"instance": replace(CHAIN["instance"], key_cert_sign=False)}, Reason.CHAIN),
    "zone allows no authority": ({"zone": replace(CHAIN["zone"], path_length=0)}, Reason.CHAIN),
    "leaf is an authority": ({"leaf": replace(CHAIN["leaf"], ca=True, key_cert_sign=True)}, Reason.CHAIN),
    "leaf of another issuer": ({"leaf": replace(CHAIN["leaf"], issuer="zone")}, Reason.CHAIN),
    "instance of another issuer": ({"instance": replace(CHAIN["instance"], issuer="somebody")}, Reason.CHAIN),
    "leaf expired": ({"leaf": replace(CHAIN["leaf"], hours=(-4, -1))}, Reason.CERT_EXPIRED),
    "leaf not yet valid": ({"leaf": replace(CHAIN["leaf"], hours=(1, 4))}, Reason.CERT_NOT_YET_VALID),
    "zone expired": ({"zone": replace(CHAIN["zone"], hours=(-4, -1))}, Reason.CERT_EXPIRED),
    "root expired": ({"root": replace(CHAIN["root"], hours=(-4, -1))}, Reason.CERT_EXPIRED),
    "leaf on another curve": (
        {"leaf": replace(CHAIN["leaf"], curve=ec.generate_private_key(ec.SECP256R1()))},
        Reason.CHAIN,
    ),
    "leaf with another hash": ({"leaf": replace(CHAIN["leaf"], digest=hashes.SHA256())}, Reason.CHAIN),
    "leaf of another module": (
        {"leaf": replace(CHAIN["leaf"], subject=f"{MODULE}0.us-east-1.aws", curve=key(LEAF))},
        Reason.KEY_BINDING,
    ),
}


@pytest.mark.parametrize("name", BAD_CHAINS)
def test_a_bad_chain_is_refused_for_what_is_wrong_with_it(name: str) -> None:
    chain, reason = BAD_CHAINS[name]
    assert why_refused(nitro(NOW, chain=chain)) is reason


def test_a_bundle_holds_its_chain_and_nothing_else() -> None:
    bundle = parse(nitro(NOW).evidence.report).cabundle
    forged = nitro(NOW)
    good = parse(forged.evidence.report).cabundle
    for other in (
        (good[0], good[2], good[1]),
        good[:2],
        (good[0], *good),
        (*good, bundle[1]),
        (good[0], b"der", *good[1:]),
    ):
        assert why_refused(rebundled(forged, other)) is Reason.CHAIN
    verify(rebundled(forged, good).evidence, [forged.root], NOW)


def rebundled(forged: Forged, bundle: tuple[bytes, ...]) -> Forged:
    """The same leaf and root with another bundle, signed anew."""
    document = parse(forged.evidence.report)
    payload: Any = cbor.decode(document.envelope.payload, "payload")
    value = sign1(cbor.encode({**payload, "cabundle": bundle}), key(LEAF), tagged=False)
    return replace(forged, evidence=replace(forged.evidence, report=cbor.encode(value)))


def test_a_document_that_another_key_signed_is_refused() -> None:
    assert why_refused(nitro(NOW, signer=key("somebody"))) is Reason.EVIDENCE_SIGNATURE


def test_each_knob_is_a_field_with_a_meaning_and_a_check() -> None:
    assert list(KNOB_CHECKS) == NAMES == [field.name for field in fields(NitroPolicy)]
    assert all(knob.meaning for knob in KNOBS)


ZEROS = {index: bytes(48) for index in range(16)}
# name, what passes, what fails, why
KNOB_CASES: tuple[tuple[str, Any, Any, Reason], ...] = (
    (
        "measurements",
        strict_nitro_policy([PCR[0]]).measurements,
        strict_nitro_policy([PCR[1]]).measurements,
        Reason.MEASUREMENT,
    ),
    ("pcr1", (PCR[1],), (PCR[0],), Reason.RUNTIME_MEASUREMENT),
    ("pcr1", (PCR[2], PCR[1]), (), Reason.RUNTIME_MEASUREMENT),
    ("pcr2", (PCR[2],), (PCR[1],), Reason.RUNTIME_MEASUREMENT),
    ("pcr3", (PCR[3],), (PCR[1],), Reason.RUNTIME_MEASUREMENT),
    ("pcr4", (PCR[4],), (PCR[1],), Reason.RUNTIME_MEASUREMENT),
    ("pcr8", (PCR[8],), (PCR[1],), Reason.ID_KEY),
    ("instances", ("i-0123456789abcdef0",), ("i-0123456789abcdef1",), Reason.HARDWARE_NOT_ALLOWED),
    ("instances", ("i-1", "i-0123456789abcdef0"), (), Reason.HARDWARE_NOT_ALLOWED),
    ("denied_instances", ("i-0123456789abcdef1",), ("i-0123456789abcdef0",), Reason.HARDWARE_NOT_ALLOWED),
    ("assurance", Assurance.NONE, Assurance.HARDWARE, Reason.ASSURANCE),
)


@pytest.mark.parametrize(("name", "good", "bad", "reason"), KNOB_CASES)
def test_each_knob_admits_and_refuses(name: str, good: Any, bad: Any, reason: Reason) -> None:
    forged = nitro(NOW, nonce=NONCE)
    appraise(verify(forged.evidence, [forged.root], NOW), policy(**{name: good}), EXPECTED, NOW)
    assert why_not_appraised(forged, policy(**{name: bad})) is reason


@pytest.mark.parametrize("index", [0, 1, 2])
def test_debug_shows_in_any_register_of_the_image(index: int) -> None:
    forged = nitro(NOW, nonce=NONCE, pcrs={**ZEROS, **PCR, index: bytes(48)})
    measured = strict_nitro_policy([bytes(48) if index == 0 else PCR[0]]).measurements
    assert why_not_appraised(forged, policy(measurements=measured)) is Reason.DEBUG
    allowed = policy(measurements=measured, debug=Permission.ALLOW)
    appraise(verify(forged.evidence, [forged.root], NOW), allowed, EXPECTED, NOW)


@pytest.mark.parametrize("seconds", [-60, 0, 60])
def test_a_document_is_good_for_a_minute(seconds: int) -> None:
    forged = nitro(NOW, nonce=NONCE)
    verified = verify(forged.evidence, [forged.root], NOW)
    appraise(verified, policy(), EXPECTED, NOW + timedelta(seconds=seconds))
    step = timedelta(seconds=seconds + (1 if seconds >= 0 else -1) * 61)
    assert why_not_appraised(forged, policy(), NOW + step) is Reason.EVIDENCE_AGE


def test_the_nonce_is_this_sessions_or_absent_where_the_policy_says_so() -> None:
    absent, present, other = nitro(NOW), nitro(NOW, nonce=NONCE), nitro(NOW, nonce=NONCE[:-1] + b"\0")
    for forged, demand in ((present, Demand.REQUIRE), (present, Demand.ANY), (absent, Demand.ANY)):
        appraise(verify(forged.evidence, [forged.root], NOW), policy(nonce=demand), EXPECTED, NOW)
    refused = (
        (absent, Demand.REQUIRE),
        (other, Demand.REQUIRE),
        (other, Demand.ANY),
        (nitro(NOW, nonce=b""), Demand.ANY),
    )
    for forged, demand in refused:
        assert why_not_appraised(forged, policy(nonce=demand)) is Reason.REPORT_DATA


@pytest.mark.parametrize(
    "user_data", [None, b"", REPORT_DATA[:-1], REPORT_DATA + b"\0", REPORT_DATA[:-1] + b"\0", short_nonce(REPORT_DATA)]
)
def test_user_data_is_the_report_data_and_nothing_else(user_data: bytes | None) -> None:
    forged = nitro(NOW, user_data=user_data)
    assert why_not_appraised(forged, policy(nonce=Skip("not asked for"))) is Reason.REPORT_DATA


@pytest.mark.parametrize("name", NAMES)
def test_an_unset_knob_does_not_read_and_an_emptied_one_never_admits_more(name: str) -> None:
    value = policy().to_json()
    with pytest.raises(WireError) as error:
        NitroPolicy.from_json({key: item for key, item in value.items() if key != name})
    assert error.value.reason is Reason.MISSING_FIELD
    for empty in (None, {}, "", {"skip": ""}):
        with pytest.raises(WireError):
            NitroPolicy.from_json({**value, name: empty})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("measurements", []),
        ("measurements", [{"value": "11" * 32, "until": None}]),
        ("pcr1", ["00" * 48]),
        ("pcr1", ["11" * 47]),
        ("pcr1", ["11" * 48, "11" * 48]),
        ("maximum_age_s", 0),
        ("maximum_age_s", 3601),
        ("instances", [1]),
        ("instances", [""]),
        ("instances", ["i-1", "i-1"]),
        ("nonce", "yes"),
        ("trust_me", True),
    ],
)
def test_a_knob_takes_no_value_of_another_kind(name: str, value: Any) -> None:
    with pytest.raises(WireError):
        NitroPolicy.from_json({**policy().to_json(), name: value})


def test_a_policy_survives_its_json() -> None:
    full = strict_nitro_policy([PCR[0]], instances=["i-1"], roles=[PCR[3]], signers=[PCR[8]])
    assert NitroPolicy.from_json(full.to_json()) == full


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(data)


@settings(deadline=None)  # each example signs anew
@given(
    st.dictionaries(
        st.sampled_from(["module_id", "pcrs", "nonce", "cabundle", "timestamp"]),
        st.none() | st.binary() | st.integers(0, 9),
    )
)
def test_any_fields_parse_or_are_refused(changes: dict[str, Any]) -> None:
    try:
        parse(nitro(NOW, **changes).evidence.report)
    except ProtocolError as error:
        assert error.reason is Reason.EVIDENCE_FORMAT  # noqa: PT017


def test_evidence_of_another_format_is_no_document() -> None:
    forged = nitro(NOW)
    for format in EvidenceFormat:
        if format is not EvidenceFormat.NITRO:
            other = replace(forged.root, format=format)
            with pytest.raises(ProtocolError):
                verify(Evidence(format, forged.evidence.report, ()), [other], NOW)
