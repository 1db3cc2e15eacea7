"""Arm CCA tokens: those of the vectors, and forged ones with one thing wrong each."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attestation.cose_forge import CcaParts, Forged, cca, cose_key, key, point, sign1, spki
from tests.attestation.from_vector import Loaded
from tests.attestation.from_vector import cca as from_vector
from tests.attestation.vectors import folder
from trusted.attestation.appraise import Expected, appraise, examine, verify
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import cbor
from trusted.attestation.formats.cbor import Tagged
from trusted.attestation.formats.cca import Profile, parse
from trusted.attestation.policies.cca import (
    KNOBS,
    CcaPolicy,
    ComponentReference,
    RegisterRule,
    strict_cca_policy,
)
from trusted.attestation.policies.cca_checks import KNOB_CHECKS
from trusted.attestation.policies.check import Verdict
from trusted.attestation.policies.rules import Permission, ReferenceValue
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.errors import AttestationError, ProtocolError, Reason, WireError
from trusted.wire import sha256

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
EXPECTED = Expected(b"\x22" * 64, b"\x33" * 32)
RIM = b"\x11" * 48
COMPONENTS = (ComponentReference(b"\x0b" * 32, b"\x0a" * 32), ComponentReference(b"\x0d" * 48, b"\x0c" * 32))
NAMES = [knob.name for knob in KNOBS]


def real(name: str) -> Loaded:
    path = folder("cca", name)
    return from_vector.load(path, json.loads((path / "provenance.json").read_text()))


def policy(**changes: Any) -> CcaPolicy:
    template = strict_cca_policy([RIM], components=COMPONENTS, profiles=list(Profile), assurance=Assurance.NONE)
    return replace(template, **changes)


def why_refused(forged: Forged) -> Reason:
    with pytest.raises(AttestationError) as error:
        verify(forged.evidence, [forged.root], NOW)
    return error.value.reason


def why_not_appraised(parts: CcaParts, applied: CcaPolicy) -> Reason:
    forged = parts.forge()
    with pytest.raises(AttestationError) as error:
        appraise(verify(forged.evidence, [forged.root], NOW), applied, EXPECTED, NOW)
    return error.value.reason


def admit(parts: CcaParts, applied: CcaPolicy) -> None:
    forged = parts.forge()
    appraise(verify(forged.evidence, [forged.root], NOW), applied, EXPECTED, NOW)


def changed(parts: CcaParts, side: str, label: Any, value: Any) -> CcaParts:
    """``parts`` with one claim changed, or with None removed."""
    claims = {**getattr(parts, side), label: value}
    if value is None:
        del claims[label]
    return replace(parts, **{side: claims})


@pytest.mark.parametrize("profile", [0, 1, 2])
def test_a_token_for_this_session_is_admitted(profile: int) -> None:
    forged = cca(profile).forge()
    verified = verify(forged.evidence, [forged.root], NOW)
    result = appraise(verified, policy(), EXPECTED, NOW)
    assert result.hardware_id == b"\x01" + b"\x08" * 32
    assert result.measurement == RIM
    assert result.assurance is Assurance.NONE


@pytest.mark.parametrize("wrapped", [False, True])
def test_either_form_of_the_collection_is_read(wrapped: bool) -> None:
    admit(replace(cca(1), wrapped=wrapped), policy())


def test_no_root_of_cca_is_pinned_so_that_none_gives_assurance() -> None:
    assert cca().forge().root.assurance is Assurance.NONE
    assert why_not_appraised(cca(), policy(assurance=Assurance.HARDWARE)) is Reason.ASSURANCE


def test_a_realm_whose_key_no_platform_vouches_for_is_refused() -> None:
    loaded = real("bad_rak_not_bound")
    with pytest.raises(AttestationError) as error:
        verify(loaded.evidence, loaded.roots, NOW)
    assert error.value.reason is Reason.KEY_BINDING
    # Anybody can write a realm token under a key of their own: it holds, and belongs to nobody.
    other = cose_key(key("somebody"))
    assert (
        why_refused(replace(changed(cca(), "realm", 44237, other), realm_signer="somebody").forge())
        is Reason.KEY_BINDING
    )


def test_the_binding_hash_is_the_one_that_the_realm_token_names() -> None:
    assert why_refused(changed(cca(), "realm", 44240, "sha-384").forge()) is Reason.KEY_BINDING
    assert why_refused(changed(cca(), "realm", 44240, "sha-1").forge()) is Reason.EVIDENCE_FORMAT
    assert why_refused(changed(cca(), "platform", 10, sha256(b"other")).forge()) is Reason.KEY_BINDING


@pytest.mark.parametrize("name", ["draft_ffm_00", "legacy_tfrmm_01", "legacy_trustee"])
def test_a_token_of_the_vectors_meets_its_policy_but_for_the_session(name: str) -> None:
    loaded = real(name)
    checks = examine(verify(loaded.evidence, loaded.roots, NOW), loaded.policy, EXPECTED, NOW)
    failed = {check.claim for check in checks if check.verdict is Verdict.FAIL}
    assert failed == {"report_data", "host_data"}


@pytest.mark.parametrize("name", ["draft_ffm_00", "legacy_tfrmm_01"])
@pytest.mark.parametrize("masks", [(0x04,), pytest.param((1, 2, 8, 16, 32, 64, 128, 255), marks=pytest.mark.slow)])
def test_every_byte_of_a_token_counts(name: str, masks: tuple[int, ...]) -> None:
    loaded = real(name)
    for part, data in (("report", loaded.evidence.report), ("cpak", loaded.evidence.part("cpak"))):
        for offset in range(len(data)):
            for mask in masks:
                flipped = data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1 :]
                change: dict[str, Any] = {"report": flipped} if part == "report" else {"parts": (("cpak", flipped),)}
                with pytest.raises(AttestationError):
                    verify(replace(loaded.evidence, **change), loaded.roots, NOW)


def test_a_token_is_its_bytes_and_no_other() -> None:
    forged = cca().forge()
    report = forged.evidence.report
    for other in (report + b"\0", report[:-1], b"", b"\xd9\x01\x8e" + report[3:], report[3:]):
        assert why_refused(replace(forged, evidence=replace(forged.evidence, report=other))) is Reason.EVIDENCE_FORMAT


def test_the_platforms_key_alone_comes_along() -> None:
    forged = cca().forge()
    for beside in (
        {"parts": ()},
        {"parts": (("cpak", forged.evidence.part("cpak")), ("cpal", b"der"))},
        {"parts": (("cpal", forged.evidence.part("cpak")),)},
        {"certificates": (b"der",)},
        {"crl": b"der"},
    ):
        assert why_refused(replace(forged, evidence=replace(forged.evidence, **beside))) is Reason.EVIDENCE_FORMAT


def with_key(part: bytes) -> Forged:
    """A good token beside another platform key, which is trusted."""
    evidence = replace(cca().forge().evidence, parts=(("cpak", part),))
    return Forged(evidence, TrustRoot(EvidenceFormat.CCA, "CCA", sha256(part)))


def test_a_platforms_key_is_trusted_by_its_digest_and_is_on_the_one_curve() -> None:
    forged = cca().forge()
    assert why_refused(replace(forged, root=replace(forged.root, sha256=sha256(b"other")))) is Reason.TRUST_ANCHOR
    assert why_refused(replace(forged, root=replace(forged.root, product="Genoa"))) is Reason.TRUST_ANCHOR
    assert why_refused(with_key(spki(key("somebody")))) is Reason.EVIDENCE_SIGNATURE
    assert why_refused(with_key(spki(ec.generate_private_key(ec.SECP256R1())))) is Reason.EVIDENCE_FORMAT
    assert why_refused(with_key(b"no key")) is Reason.EVIDENCE_FORMAT
    assert why_refused(with_key(spki(key("cpak")) + b"\0")) is Reason.EVIDENCE_FORMAT


def test_each_token_is_signed_by_its_own_key() -> None:
    for signers in ({"platform_signer": "somebody"}, {"realm_signer": "somebody"}, {"realm_signer": "cpak"}):
        assert why_refused(replace(cca(), **signers).forge()) is Reason.EVIDENCE_SIGNATURE


def test_the_two_tokens_do_not_change_places() -> None:
    parts = cca()
    swapped = CcaParts(parts.realm, parts.platform, platform_signer="rak", realm_signer="cpak")
    assert why_refused(swapped.forge()) is Reason.REPORT_VERSION


def collection(entries: Any, tag: int = 399) -> Forged:
    """A collection of the good tokens and of what else ``entries`` says."""
    parts, forged = cca(), cca().forge()
    tokens = {
        label: cbor.encode(sign1(cbor.encode(claims), key(signer), tagged=True))
        for label, claims, signer in ((44234, parts.platform, "cpak"), (44241, parts.realm, "rak"))
    }
    return replace(forged, evidence=replace(forged.evidence, report=cbor.encode(Tagged(tag, entries(tokens)))))


BAD_COLLECTIONS: dict[str, tuple[Any, int]] = {
    "another tag": (lambda tokens: tokens, 400),
    "no realm": (lambda tokens: {44234: tokens[44234]}, 399),
    "a third token": (lambda tokens: {**tokens, 44242: b""}, 399),
    "a list": (lambda tokens: tuple(tokens.values()), 399),
    "token not as bytes": (lambda tokens: {**tokens, 44234: cbor.decode(tokens[44234], "token")}, 399),
    "untagged token": (lambda tokens: {**tokens, 44241: tokens[44241][1:]}, 399),
    "wrapped under the old tag": (lambda tokens: {label: (263, token) for label, token in tokens.items()}, 399),
    "bare under the new tag": (lambda tokens: tokens, 907),
    "another content format": (lambda tokens: {label: (61, token) for label, token in tokens.items()}, 907),
    "wrapped twice": (lambda tokens: {label: (263, (263, token)) for label, token in tokens.items()}, 907),
}


@pytest.mark.parametrize("name", BAD_COLLECTIONS)
def test_a_collection_of_another_form_is_refused(name: str) -> None:
    entries, tag = BAD_COLLECTIONS[name]
    assert why_refused(collection(entries, tag)) is Reason.EVIDENCE_FORMAT


BAD_CLAIMS: tuple[tuple[int, str, Any, Any], ...] = (
    *((1, "platform", label, None) for label in (265, 10, 2396, 256, 2401, 2395, 2402, 2399)),
    *((1, "realm", label, None) for label in (265, 10, 44235, 44236, 44237, 44238, 44239, 44240)),
    (1, "platform", 10, bytes(31)),
    (1, "platform", 2396, bytes(33)),
    (1, "platform", 256, b"\x02" + bytes(32)),
    (1, "platform", 256, b"\x01" + bytes(31)),
    (1, "platform", 2395, 0x7000),
    (1, "platform", 2395, 0x2FFF),
    (1, "platform", 2395, 0x3100),
    (1, "platform", 2395, -1),
    (1, "platform", 2402, "sha-1"),
    (1, "platform", 2402, "sha-384"),
    (1, "platform", 2399, ()),
    (1, "platform", 2399, ({2: bytes(32)},)),
    (1, "platform", 2399, ({5: bytes(32)},)),
    (1, "platform", 2399, ({2: bytes(31), 5: bytes(32)},)),
    (1, "platform", 2399, ({2: bytes(32), 5: bytes(32), 6: "sha-512"},)),
    (1, "platform", 2399, ({2: bytes(32), 5: bytes(32), 9: 1},)),
    (1, "platform", 2399, ({2: bytes(32), 5: bytes(32)},) * 65),
    (1, "platform", 2404, ()),
    (1, "platform", 9999, 1),
    (1, "realm", 10, bytes(63)),
    (1, "realm", 10, bytes(65)),
    (1, "realm", 44235, bytes(32)),
    (1, "realm", 44236, "sha-256"),
    (1, "realm", 44238, bytes(32)),
    (1, "realm", 44239, (bytes(48),) * 3),
    (1, "realm", 44239, (bytes(48),) * 5),
    (1, "realm", 44239, (bytes(48), bytes(48), bytes(48), bytes(32))),
    (1, "realm", 44237, point(key("rak"))),
    (1, "realm", 44237, cbor.encode({1: 2, -1: 1, -2: bytes(48), -3: bytes(48)})),
    (1, "realm", 44237, cbor.encode({1: 2, -1: 2, -2: bytes(48), -3: bytes(47)})),
    (1, "realm", 44237, cbor.encode({1: 2, 3: -7, -1: 2, -2: bytes(48), -3: bytes(48)})),
    (1, "realm", 44237, cbor.encode({1: 2, -1: 2, -2: bytes(48), -3: bytes(48), -4: bytes(48)})),
    (1, "realm", 265, "tag:arm.com,2024:realm#2.0.0"),
    (1, "realm", 44257, bytes(32)),
    (0, "realm", 265, "tag:arm.com,2023:realm#1.0.0"),
    (0, "realm", 44237, b"\x02" + bytes(48)),
    (2, "platform", 2394, 2),
    (2, "platform", 2394, None),
    (2, "platform", 2404, ({2: bytes(32)},)),
    (2, "realm", 44243, 2),
    (2, "realm", 44243, None),
    (2, "realm", 44244, 1),
    (2, "realm", 44257, bytes(32)),
    (2, "realm", 256, None),
)


def length(value: object) -> str | None:
    """An id that is the same in every process of a test run: keys are drawn in each."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else None


@pytest.mark.parametrize(("profile", "side", "label", "value"), BAD_CLAIMS, ids=length)
def test_a_token_of_another_form_is_refused(profile: int, side: str, label: int, value: Any) -> None:
    assert why_refused(changed(cca(profile), side, label, value).forge()) is Reason.EVIDENCE_FORMAT


def test_what_version_2_may_add_is_read() -> None:
    for parts in (
        changed(cca(2), "platform", 2403, b"factory"),
        changed(cca(2), "realm", 44243, "private"),
        changed(cca(2), "realm", 44244, 0),
        changed(cca(2), "platform", 2400, "https://verifier.example"),
    ):
        admit(parts, policy())


@pytest.mark.parametrize("profile", ["tag:arm.com,2026:cca_platform#2.0.0", "tag:psacertified.org,2023:psa#tfm", "x"])
def test_a_profile_of_another_release_is_refused(profile: str) -> None:
    assert why_refused(changed(cca(), "platform", 265, profile).forge()) is Reason.REPORT_VERSION


def test_a_key_that_is_no_point_is_refused() -> None:
    nowhere = cbor.encode({1: 2, -1: 2, -2: b"\xff" * 48, -3: b"\xff" * 48})
    bound = changed(changed(cca(), "realm", 44237, nowhere), "platform", 10, sha256(nowhere))
    assert why_refused(bound.forge()) is Reason.KEY_BINDING


@pytest.mark.parametrize("value", [b"\x33" * 31 + b"\0", b"\x33" * 32 + b"\0" * 31 + b"\1", b"\x33" * 64])
def test_the_personalization_value_is_host_data_and_zeros(value: bytes) -> None:
    assert why_not_appraised(changed(cca(), "realm", 44235, value.ljust(64, b"\0")), policy()) is Reason.HOST_DATA


def test_another_sessions_challenge_is_refused() -> None:
    assert why_not_appraised(changed(cca(), "realm", 10, b"\x22" * 63 + b"\0"), policy()) is Reason.REPORT_DATA


def test_each_knob_is_a_field_with_a_meaning_and_a_check() -> None:
    assert list(KNOB_CHECKS) == NAMES == [field.name for field in fields(CcaPolicy)]
    assert all(knob.meaning for knob in KNOBS)


KNOB_CASES: tuple[tuple[str, Any, Any, Reason], ...] = (
    ("measurements", (ReferenceValue(RIM),), (ReferenceValue(b"\x12" * 48),), Reason.MEASUREMENT),
    ("measurements", (ReferenceValue(RIM),), (ReferenceValue(RIM[:32]),), Reason.MEASUREMENT),
    (
        "registers",
        RegisterRule((("rem0", (bytes(48),)), ("rem3", (b"\x03" * 48,)))),
        RegisterRule((("rem0", (bytes(48),)), ("rem3", (bytes(48),)))),
        Reason.RUNTIME_MEASUREMENT,
    ),
    (
        "registers",
        RegisterRule((("rem1", (b"\x01" * 48,)),)),
        RegisterRule((("rem1", ()),)),
        Reason.RUNTIME_MEASUREMENT,
    ),
    ("profiles", (Profile.V1.value,), (Profile.V2.value,), Reason.REPORT_VERSION),
    ("profiles", (Profile.V1.value,), (), Reason.REPORT_VERSION),
    ("lifecycle", ("secured",), ("unknown",), Reason.PLATFORM_INFO),
    ("lifecycle", ("unknown", "secured"), (), Reason.PLATFORM_INFO),
    ("components", COMPONENTS, COMPONENTS[:1], Reason.FIRMWARE_VERSION),
    ("components", COMPONENTS[::-1], (), Reason.FIRMWARE_VERSION),
    (
        "components",
        COMPONENTS,
        (ComponentReference(COMPONENTS[0].signer, COMPONENTS[1].measurement), COMPONENTS[1]),
        Reason.FIRMWARE_VERSION,
    ),
    ("configs", (b"\xcf" * 4,), (b"\xcf" * 3,), Reason.PLATFORM_INFO),
    ("configs", (b"\xcf" * 4,), (), Reason.PLATFORM_INFO),
    ("implementations", (b"\x07" * 32,), (b"\x06" * 32,), Reason.HARDWARE_NOT_ALLOWED),
    ("implementations", (b"\x07" * 32,), (), Reason.HARDWARE_NOT_ALLOWED),
    ("instances", (b"\x01" + b"\x08" * 32,), (b"\x01" + b"\x09" * 32,), Reason.HARDWARE_NOT_ALLOWED),
    ("denied_instances", (b"\x01" + b"\x09" * 32,), (b"\x01" + b"\x08" * 32,), Reason.HARDWARE_NOT_ALLOWED),
    ("assurance", Assurance.NONE, Assurance.HARDWARE, Reason.ASSURANCE),
)


@pytest.mark.parametrize(("name", "good", "bad", "reason"), KNOB_CASES)
def test_each_knob_admits_and_refuses(name: str, good: Any, bad: Any, reason: Reason) -> None:
    admit(cca(), policy(**{name: good}))
    assert why_not_appraised(cca(), policy(**{name: bad})) is reason


ANY_STATE = (
    "unknown", "assembly_and_test", "provisioning", "secured", "non_platform_debug", "recoverable_platform_debug",
    "decommissioned",
)  # fmt: skip


@pytest.mark.parametrize("lifecycle", [0x0000, 0x1000, 0x2000, 0x4000, 0x40FF, 0x5000, 0x50FF, 0x6000])
def test_a_platform_that_is_not_secured_is_refused(lifecycle: int) -> None:
    parts = changed(cca(), "platform", 2395, lifecycle)
    assert why_not_appraised(parts, policy()) is Reason.DEBUG
    assert why_not_appraised(parts, policy(debug=Permission.ALLOW)) is Reason.PLATFORM_INFO
    assert why_not_appraised(parts, policy(lifecycle=ANY_STATE)) is Reason.DEBUG
    admit(parts, policy(debug=Permission.ALLOW, lifecycle=ANY_STATE))


@pytest.mark.parametrize("lifecycle", [0x3000, 0x3003, 0x30FF])
def test_the_secured_state_has_a_range(lifecycle: int) -> None:
    admit(changed(cca(), "platform", 2395, lifecycle), policy())


@pytest.mark.parametrize("name", NAMES)
def test_an_unset_knob_does_not_read_and_an_emptied_one_never_admits_more(name: str) -> None:
    value = policy().to_json()
    with pytest.raises(WireError) as error:
        CcaPolicy.from_json({key: item for key, item in value.items() if key != name})
    assert error.value.reason is Reason.MISSING_FIELD
    for empty in (None, {}, "", {"skip": ""}):
        with pytest.raises(WireError):
            CcaPolicy.from_json({**value, name: empty})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("measurements", []),
        ("measurements", [{"value": "11" * 20, "until": None}]),
        ("measurements", [{"value": "11" * 32, "until": None}] * 2),
        ("measurements", [{"value": "11" * 32}]),
        ("registers", {"rem4": []}),
        ("registers", {"rem0": ["11"]}),
        ("profiles", ["tag:other"]),
        ("lifecycle", ["debug"]),
        ("components", [{"signer": "11" * 32}]),
        ("components", [{"signer": "11" * 32, "measurement": "11" * 31}]),
        ("components", [{"signer": "11" * 32, "measurement": "11" * 32}] * 2),
        ("configs", [1]),
        ("implementations", ["11" * 33]),
        ("instances", ["00" * 33]),
        ("trust_me", True),
    ],
)
def test_a_knob_takes_no_value_of_another_kind(name: str, value: Any) -> None:
    with pytest.raises(WireError):
        CcaPolicy.from_json({**policy().to_json(), name: value})


def test_a_policy_survives_its_json() -> None:
    rule = RegisterRule((("rem0", (bytes(32), bytes(48))),))
    full = policy(registers=rule, configs=(b"\x01",), implementations=(b"\x07" * 32,), instances=(b"\x01" * 33,))
    assert CcaPolicy.from_json(full.to_json()) == full


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    for prefix in (b"", b"\xd9\x01\x8f", b"\xd9\x03\x8b"):
        with pytest.raises(ProtocolError):
            parse(prefix + data)


@settings(deadline=None)  # each example signs anew
@given(
    st.sampled_from(["platform", "realm"]),
    st.sampled_from([10, 256, 265, 2395, 2399, 2402, 44235, 44237, 44239]),
    st.binary(max_size=70) | st.integers(0, 9) | st.text(max_size=9) | st.just(()),
)
def test_any_claims_parse_or_are_refused(side: str, label: int, value: Any) -> None:
    try:
        parse(changed(cca(), side, label, value).forge().evidence.report)
    except ProtocolError as error:
        assert error.reason in (Reason.EVIDENCE_FORMAT, Reason.REPORT_VERSION)  # noqa: PT017


def test_evidence_of_another_format_is_no_token() -> None:
    forged = cca().forge()
    for format in EvidenceFormat:
        if format is not EvidenceFormat.CCA:
            other = replace(forged.root, format=format)
            with pytest.raises(ProtocolError):
                verify(Evidence(format, forged.evidence.report, (), parts=forged.evidence.parts), [other], NOW)
