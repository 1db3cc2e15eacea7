"""The policies of ``tpm``, ``azure-vtpm`` and ``gcp-cs``: complete, strict, and each knob of a quote both ways."""

from __future__ import annotations

import contextlib
import re
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attestation.conftest import REPORT_DATA
from tests.attestation.quotes import Ak, Quote, draw_key
from trusted.attestation.appraise import Expected, appraise, examine, verify
from trusted.attestation.binding import short_nonce
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import Scheme
from trusted.attestation.platforms import PLATFORMS
from trusted.attestation.policies.azure_vtpm import strict_azure_vtpm_policy
from trusted.attestation.policies.gcp_cs import strict_gcp_cs_policy
from trusted.attestation.policies.rules import Skip
from trusted.attestation.policies.tpm import TpmPolicy, strict_tpm_policy
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, ProtocolError, Reason, WireError
from trusted.wire import Json, decode_json, encode_json

EXPECTED = Expected(REPORT_DATA, bytes(32))
AK = Ak(draw_key(Scheme.ECDSA_P256_SHA256))
QUOTE = Quote(extra_data=short_nonce(REPORT_DATA))
DIGEST = Bank.SHA256.digest(b"".join(QUOTE.values))
PCRS = {"bank": "sha256", "selection": [4, 9, 11], "values": {}}
TEMPLATES: dict[EvidenceFormat, dict[str, Json]] = {
    EvidenceFormat.TPM: strict_tpm_policy([DIGEST], selection=[4, 9, 11], keys=[AK.sha256]).to_json(),
    EvidenceFormat.AZURE_VTPM: strict_azure_vtpm_policy([DIGEST], selection=[4], paravisors=[b"\x01" * 48]).to_json(),
    EvidenceFormat.GCP_CS: strict_gcp_cs_policy([DIGEST], projects=["p"]).to_json(),
}
EACH_KNOB = [(format, knob.name) for format in TEMPLATES for knob in PLATFORMS[format].policy.KNOBS]
NEVER_SKIPPED = {"measurements", "assurance", "pcrs", "snp"}


def read(format: EvidenceFormat, value: Any) -> Any:
    return PLATFORMS[format].policy.from_json(value)


@pytest.mark.parametrize("format", TEMPLATES)
def test_each_knob_is_a_field_with_a_meaning_and_a_check_in_the_protocols_order(format: EvidenceFormat) -> None:
    platform = PLATFORMS[format]
    names = [knob.name for knob in platform.policy.KNOBS]
    assert [field.name for field in fields(platform.policy)] == names  # type: ignore[arg-type]
    assert list(platform.checks) == names
    assert all(knob.meaning for knob in platform.policy.KNOBS)
    assert all(check.remedy for check in platform.checks.values())
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    listed = text.split(f"Those of `{format.value}`:")[1].partition(".\n")[0]
    assert re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", listed)) == names


@pytest.mark.parametrize("format", TEMPLATES)
def test_a_policy_survives_canonical_json(format: EvidenceFormat) -> None:
    policy = read(format, TEMPLATES[format])
    again = read(format, decode_json(encode_json(policy.to_json())))
    assert (again, again.digest) == (policy, policy.digest)


@pytest.mark.parametrize(("format", "name"), EACH_KNOB)
def test_an_unset_knob_is_refused(format: EvidenceFormat, name: str) -> None:
    value = {key: knob for key, knob in TEMPLATES[format].items() if key != name}
    with pytest.raises(WireError) as error:
        read(format, value)
    assert error.value.reason is Reason.MISSING_FIELD


@pytest.mark.parametrize("format", TEMPLATES)
def test_an_unknown_knob_is_refused(format: EvidenceFormat) -> None:
    with pytest.raises(WireError) as error:
        read(format, {**TEMPLATES[format], "vmpl": 0})
    assert error.value.reason is Reason.UNKNOWN_FIELD


@pytest.mark.parametrize(("format", "name"), EACH_KNOB)
@pytest.mark.parametrize(
    "value", [None, [{}], "", -1, 1.5, True, {"a": 1}, {"skip": ""}, {"skip": None}, {"skip": "a", "b": 1}]
)
def test_a_knob_takes_no_value_of_another_kind(format: EvidenceFormat, name: str, value: Any) -> None:
    with pytest.raises(WireError):
        read(format, {**TEMPLATES[format], name: value})


@pytest.mark.parametrize(("format", "name"), EACH_KNOB)
def test_a_skip_is_kept_with_its_reason_where_one_may_skip(format: EvidenceFormat, name: str) -> None:
    value = {**TEMPLATES[format], name: {"skip": "why"}}
    if name in NEVER_SKIPPED:
        with pytest.raises(WireError) as error:
            read(format, value)
        assert error.value.reason is Reason.POLICY_UNSET
    else:
        assert getattr(read(format, value), name) == Skip("why")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pcrs", {**PCRS, "bank": "sha1"}),
        ("pcrs", {**PCRS, "selection": []}),
        ("pcrs", {**PCRS, "selection": [9, 4]}),
        ("pcrs", {**PCRS, "selection": [4, 4]}),
        ("pcrs", {**PCRS, "selection": [24]}),
        ("pcrs", {**PCRS, "selection": [True]}),
        ("pcrs", {**PCRS, "values": {"5": ["11" * 32]}}),
        ("pcrs", {**PCRS, "values": {"4": []}}),
        ("pcrs", {**PCRS, "values": {"4": ["11" * 48]}}),
        ("pcrs", {**PCRS, "values": {"4": ["11" * 32, "11" * 32]}}),
        ("pcrs", {**PCRS, "values": {"04": ["11" * 32]}}),
        ("measurements", []),
        ("measurements", [{"value": "11" * 20, "until": None}]),
        ("measurements", [{"value": "11" * 33, "until": None}]),
        ("measurements", [{"value": "11" * 32, "until": "soon"}]),
        ("measurements", [{"value": "11" * 32, "until": None}] * 2),
        ("event_log", {"pcrs": []}),
        ("event_log", {"pcrs": [25]}),
        ("algorithms", []),
        ("algorithms", ["rsapss-sha256"]),
        ("algorithms", ["rsassa-sha256", "rsassa-sha256"]),
        ("minimum_firmware", 1 << 54),
        ("restarts", {"max_resets": 1}),
        ("restarts", {"max_resets": -1, "max_restarts": 0}),
        ("clock_safe", "yes"),
        ("keys", ["11" * 48]),
        ("keys", ["00" * 32]),
        ("assurance", "software"),
    ],
)
def test_values_outside_their_rule_are_refused(name: str, value: Any) -> None:
    with pytest.raises(WireError) as error:
        read(EvidenceFormat.TPM, {**TEMPLATES[EvidenceFormat.TPM], name: value})
    assert f"policy.{name}" in error.value.detail


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vm_ids", [""]),
        ("vm_ids", ["a", "a"]),
        ("snp", {}),
    ],
)
def test_values_outside_azures_rules_are_refused(name: str, value: Any) -> None:
    with pytest.raises(WireError):
        read(EvidenceFormat.AZURE_VTPM, {**TEMPLATES[EvidenceFormat.AZURE_VTPM], name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hardware", ["GCP_SNP"]),
        ("support", ["GOOD"]),
        ("audience", "a" * 513),
        ("environment", {"A": 1}),
        ("projects", ["p", "p"]),
        ("max_age_s", 0),
        ("max_age_s", 86401),
    ],
)
def test_values_outside_googles_rules_are_refused(name: str, value: Any) -> None:
    with pytest.raises(WireError):
        read(EvidenceFormat.GCP_CS, {**TEMPLATES[EvidenceFormat.GCP_CS], name: value})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(EACH_KNOB), json_values)
def test_any_value_of_a_knob_reads_or_is_refused(knob: tuple[EvidenceFormat, str], value: Any) -> None:
    format, name = knob
    with contextlib.suppress(ProtocolError):
        assert read(format, {**TEMPLATES[format], name: value}).to_json()[name] == value


# Each knob of a quote, admitting and refusing.


def policy(**changes: Any) -> TpmPolicy:
    """The strict template, without a log and with a software root."""
    value = {**TEMPLATES[EvidenceFormat.TPM], "event_log": {"skip": "no log"}, "assurance": "none"}
    return TpmPolicy.from_json({**value, **changes})


@pytest.fixture(scope="module")
def verified(now: datetime) -> VerifiedEvidence:
    """A quote that meets the policy."""
    return verify(AK.evidence(QUOTE), [AK.root], now)


def test_a_quote_that_meets_the_policy_is_affirmed(verified: VerifiedEvidence, now: datetime) -> None:
    result = appraise(verified, policy(), EXPECTED, now)
    assert (result.measurement, result.hardware_id) == (DIGEST, AK.sha256)
    assert {skip.knob for skip in result.skips} == {"event_log", "minimum_firmware", "restarts"}


def test_a_quote_with_another_nonce_is_refused(now: datetime) -> None:
    for nonce in (b"", b"\x22" * 31, REPORT_DATA[:32], short_nonce(b"\x21" * 64), short_nonce(REPORT_DATA) + b"\x00"):
        verified = verify(AK.evidence(Quote(extra_data=nonce)), [AK.root], now)
        with pytest.raises(AttestationError) as error:
            appraise(verified, policy(), EXPECTED, now)
        assert error.value.reason is Reason.REPORT_DATA


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        (
            {"pcrs": {**PCRS, "values": {"4": ["04" * 32], "11": ["01" * 32, "0b" * 32]}}},
            {"pcrs": {**PCRS, "values": {"4": ["09" * 32]}}},
            Reason.RUNTIME_MEASUREMENT,
        ),
        ({}, {"pcrs": {**PCRS, "selection": [4, 9]}}, Reason.RUNTIME_MEASUREMENT),
        ({}, {"pcrs": {**PCRS, "selection": [4, 9, 11, 12]}}, Reason.RUNTIME_MEASUREMENT),
        ({}, {"pcrs": {**PCRS, "selection": [4, 9, 16]}}, Reason.RUNTIME_MEASUREMENT),
        ({}, {"pcrs": {**PCRS, "bank": "sha384"}}, Reason.RUNTIME_MEASUREMENT),
        ({}, {"measurements": [{"value": "11" * 32, "until": None}]}, Reason.MEASUREMENT),
        ({}, {"event_log": {"pcrs": [4]}}, Reason.RUNTIME_MEASUREMENT),
        ({"algorithms": ["ecdsa-p256-sha256"]}, {"algorithms": ["rsassa-sha256"]}, Reason.KEY_BINDING),
        ({"minimum_firmware": 0x10002}, {"minimum_firmware": 0x10003}, Reason.FIRMWARE_VERSION),
        (
            {"restarts": {"max_resets": 3, "max_restarts": 1}},
            {"restarts": {"max_resets": 2, "max_restarts": 1}},
            Reason.PLATFORM_INFO,
        ),
        ({}, {"restarts": {"max_resets": 3, "max_restarts": 0}}, Reason.PLATFORM_INFO),
        ({"keys": {"skip": "any"}}, {"keys": ["01" * 32]}, Reason.HARDWARE_NOT_ALLOWED),
        ({"denied_keys": ["01" * 32]}, {"denied_keys": [AK.sha256.hex()]}, Reason.HARDWARE_NOT_ALLOWED),
        ({}, {"keys": []}, Reason.HARDWARE_NOT_ALLOWED),
        ({}, {"assurance": "hardware"}, Reason.ASSURANCE),
    ],
)
def test_each_knob_admits_and_refuses(
    verified: VerifiedEvidence, now: datetime, good: dict[str, Any], bad: dict[str, Any], reason: Reason
) -> None:
    appraise(verified, policy(**good), EXPECTED, now)
    with pytest.raises(AttestationError) as error:
        appraise(verified, policy(**bad), EXPECTED, now)
    assert error.value.reason is reason


def test_pcrs_that_a_host_can_set_do_not_stand_for_others(now: datetime) -> None:
    """PCRs 16 and 23 can be reset and extended by anybody, to the values that a boot would have left elsewhere."""
    forged = verify(AK.evidence(Quote(extra_data=QUOTE.extra_data, indexes=(4, 9, 16))), [AK.root], now)
    assert forged.claims.measurement == DIGEST
    with pytest.raises(AttestationError) as error:
        appraise(forged, policy(), EXPECTED, now)
    assert error.value.reason is Reason.RUNTIME_MEASUREMENT


def test_an_unsafe_clock_is_refused_where_a_safe_one_is_required(now: datetime, verified: VerifiedEvidence) -> None:
    unsafe = verify(AK.evidence(Quote(extra_data=QUOTE.extra_data, safe=0)), [AK.root], now)
    appraise(verified, policy(clock_safe="require"), EXPECTED, now)
    appraise(unsafe, policy(clock_safe="any"), EXPECTED, now)
    with pytest.raises(AttestationError) as error:
        appraise(unsafe, policy(clock_safe="require"), EXPECTED, now)
    assert error.value.reason is Reason.PLATFORM_INFO


def test_a_measurements_window_closes(verified: VerifiedEvidence, now: datetime) -> None:
    until = now + timedelta(seconds=1)
    windowed = policy(measurements=[{"value": DIGEST.hex(), "until": until.strftime("%Y-%m-%dT%H:%M:%SZ")}])
    assert appraise(verified, windowed, EXPECTED, now).expires == until
    with pytest.raises(AttestationError) as error:
        appraise(verified, windowed, EXPECTED, until)
    assert error.value.reason is Reason.MEASUREMENT


def test_an_explanation_names_what_differs(verified: VerifiedEvidence, now: datetime) -> None:
    wrong = policy(pcrs={**PCRS, "values": {"9": ["08" * 32]}})
    checks = {check.claim: check for check in examine(verified, wrong, EXPECTED, now)}
    assert checks["pcrs"].actual == f"PCR 9 {'09' * 32}"
    assert (
        "log that explains"
        in {check.claim: check for check in examine(verified, policy(event_log={"pcrs": [4]}), EXPECTED, now)}[
            "event_log"
        ].expected
    )
