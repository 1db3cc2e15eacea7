"""The policies for TDX and SGX as data, and each of their knobs both ways."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attestation.intel_quotes import HOST_DATA, NOW, REPORT_DATA, sgx_claims, tdx_claims
from trusted.attestation.anchors import INTEL_ROOT
from trusted.attestation.appraise import Expected, appraise, examine
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.intel_claims import PckFlag, SgxClaims, SgxType, TcbLevel, TcbStatus, TdxClaims
from trusted.attestation.platforms import PLATFORMS
from trusted.attestation.policies.check import Verdict
from trusted.attestation.policies.intel import StatusRule
from trusted.attestation.policies.knob import PlatformPolicy
from trusted.attestation.policies.rules import Demand, Permission, PlatformRule, ReferenceValue, Skip
from trusted.attestation.policies.sgx import SgxPolicy, strict_sgx_policy
from trusted.attestation.policies.tdx import RegisterRule, TdxPolicy, strict_tdx_policy
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, ProtocolError, Reason, WireError
from trusted.wire import decode_json, encode_json

MRTD, MRENCLAVE = b"\x11" * 48, b"\x11" * 32
RTMRS = {number: [bytes([0xA0 + number]) * 48] for number in range(3)}
EXPECTED = Expected(REPORT_DATA, HOST_DATA)
NO_REASON = Skip("not today")
Claims = TdxClaims | SgxClaims


def tdx_policy() -> TdxPolicy:
    return strict_tdx_policy([MRTD], RTMRS)


def sgx_policy() -> SgxPolicy:
    policy = strict_sgx_policy([MRENCLAVE], mr_signers=[b"\x51" * 32])
    return replace(policy, isv_prod_id=7, minimum_isv_svn=9, minimum_config_svn=3)


POLICIES: dict[str, Any] = {"tdx": tdx_policy(), "sgx": sgx_policy()}
CLAIMS: dict[str, Any] = {"tdx": tdx_claims(), "sgx": sgx_claims()}
EVERY_KNOB = [(name, knob.name) for name, policy in POLICIES.items() for knob in policy.KNOBS]


def verified(claims: Claims, digest: bytes = INTEL_ROOT) -> VerifiedEvidence:
    root = TrustRoot(claims.format, claims.product, digest)
    return VerifiedEvidence(claims, root, NOW + timedelta(days=10), bytes(32))


def failures(claims: Claims, policy: PlatformPolicy, *, digest: bytes = INTEL_ROOT) -> dict[str, Reason]:
    """What fails, and why."""
    checks = examine(verified(claims, digest), policy, EXPECTED, NOW)
    return {check.claim: check.reason for check in checks if check.verdict is Verdict.FAIL}


def changed(record: Any, path: str, value: Any) -> Any:
    """``record`` with the field at the dotted ``path`` changed."""
    name, _, rest = path.partition(".")
    return replace(record, **{name: changed(getattr(record, name), rest, value) if rest else value})


@pytest.mark.parametrize("name", POLICIES)
def test_good_evidence_meets_the_strict_template(name: str) -> None:
    result = appraise(verified(CLAIMS[name]), POLICIES[name], EXPECTED, NOW)
    assert result.hardware_id == b"\x77" * 16
    assert result.assurance is Assurance.HARDWARE
    assert result.product == name.upper()


def test_a_td_of_version_4_meets_it_too() -> None:
    assert not failures(tdx_claims(4), tdx_policy())


# For each knob: how the claims differ, or how the policy does, and the reason. The rest stays as it is.
_LEVEL = TcbLevel(TcbStatus.OUT_OF_DATE, datetime(2026, 1, 1, tzinfo=UTC))
_OUT_OF_DATE = {
    "platform.tcb.status": TcbStatus.OUT_OF_DATE,
    "platform.tcb.platform": _LEVEL,
}
_ZERO48, _ONE48 = bytes(48), b"\x01" * 48
TDX_CASES: list[tuple[str, dict[str, Any], Any, Reason]] = [
    ("measurements", {"td.mr_td": _ONE48}, None, Reason.MEASUREMENT),
    ("measurements", {}, (ReferenceValue(MRTD, NOW),), Reason.MEASUREMENT),
    ("rtmr0", {"td.rtmrs": (_ONE48, *RTMRS[1], *RTMRS[2], _ZERO48)}, None, Reason.RUNTIME_MEASUREMENT),
    ("rtmr1", {"td.rtmrs": (*RTMRS[0], _ONE48, *RTMRS[2], _ZERO48)}, None, Reason.RUNTIME_MEASUREMENT),
    ("rtmr2", {"td.rtmrs": (*RTMRS[0], *RTMRS[1], _ONE48, _ZERO48)}, None, Reason.RUNTIME_MEASUREMENT),
    ("rtmr3", {"td.rtmrs": (*RTMRS[0], *RTMRS[1], *RTMRS[2], _ONE48)}, None, Reason.RUNTIME_MEASUREMENT),
    ("rtmr1", {}, RegisterRule(()), Reason.RUNTIME_MEASUREMENT),
    ("rtmr1", {"events": ((), (_ONE48,), (), ())}, RegisterRule((), (b"\x02" * 48,)), Reason.RUNTIME_MEASUREMENT),
    ("rtmr1", {"events": ((), (), (), ())}, RegisterRule((), (_ONE48,)), Reason.RUNTIME_MEASUREMENT),
    ("rtmr1", {"events": ((), None, (), ())}, RegisterRule((), (_ONE48,)), Reason.RUNTIME_MEASUREMENT),
    ("event_log", {}, Demand.REQUIRE, Reason.RUNTIME_MEASUREMENT),
    ("event_log", {"events": ((), None, (), ())}, Demand.REQUIRE, Reason.RUNTIME_MEASUREMENT),
    ("mr_seam", {}, (_ONE48,), Reason.FIRMWARE_VERSION),
    ("mr_seam", {}, (), Reason.FIRMWARE_VERSION),
    ("mr_signer_seam", {"td.mr_signer_seam": _ONE48}, None, Reason.FIRMWARE_VERSION),
    ("mr_config_id", {"td.mr_config_id": HOST_DATA + bytes(15) + b"\x01"}, None, Reason.HOST_DATA),
    ("mr_owner", {"td.mr_owner": _ONE48}, None, Reason.HOST_DATA),
    ("mr_owner_config", {"td.mr_owner_config": _ONE48}, None, Reason.HOST_DATA),
    ("xfam", {}, (b"\xe7\x02\x06\0\0\0\0\x01",), Reason.GUEST_POLICY),
    ("xfam", {}, (), Reason.GUEST_POLICY),
    ("debug", {"td.attributes": frozenset({"sept_ve_disable", "debug"})}, None, Reason.DEBUG),
    ("migration", {"td.attributes": frozenset({"sept_ve_disable", "migratable"})}, None, Reason.MIGRATABLE),
    ("migration", {"td.mr_service_td": _ONE48}, None, Reason.MIGRATABLE),
    ("td_attributes", {"td.attributes": frozenset()}, None, Reason.GUEST_POLICY),
    ("td_attributes", {"td.attributes": frozenset({"sept_ve_disable", "perfmon"})}, None, Reason.GUEST_POLICY),
    ("td_attributes", {}, PlatformRule(("pks",), ()), Reason.GUEST_POLICY),
    ("minimum_tee_tcb_svn", {"td.tee_tcb_svn": bytes([4, 1, 2]) + bytes(13)}, None, Reason.TCB_FLOOR),
    ("minimum_tee_tcb_svn", {"td.tee_tcb_svn": bytes([255, 0, 255]) + bytes(13)}, None, Reason.TCB_FLOOR),
    ("minimum_tee_tcb_svn2", {}, bytes([13, 1, 5]) + bytes(13), Reason.TCB_FLOOR),
    ("minimum_tee_tcb_svn2", {"td.tee_tcb_svn2": None}, bytes(16), Reason.TCB_FLOOR),
]
SGX_CASES: list[tuple[str, dict[str, Any], Any, Reason]] = [
    ("measurements", {"enclave.mr_enclave": b"\x12" * 32}, None, Reason.MEASUREMENT),
    ("mr_signers", {"enclave.mr_signer": b"\x52" * 32}, None, Reason.AUTHOR_KEY),
    ("mr_signers", {}, (), Reason.AUTHOR_KEY),
    ("isv_prod_id", {"enclave.isv_prod_id": 8}, None, Reason.IMAGE_ID),
    ("minimum_isv_svn", {"enclave.isv_svn": 8}, None, Reason.GUEST_SVN),
    ("isv_ext_prod_id", {"enclave.isv_ext_prod_id": b"\x01" * 16}, None, Reason.IMAGE_ID),
    ("isv_family_id", {"enclave.isv_family_id": b"\x01" * 16}, None, Reason.IMAGE_ID),
    ("config_id", {"enclave.config_id": b"\x01" * 64}, None, Reason.HOST_DATA),
    ("minimum_config_svn", {"enclave.config_svn": 2}, None, Reason.GUEST_SVN),
    ("debug", {"enclave.flags": frozenset({"init", "mode64bit", "debug"})}, None, Reason.DEBUG),
    ("attributes", {"enclave.flags": frozenset({"init"})}, None, Reason.GUEST_POLICY),
    ("attributes", {"enclave.flags": frozenset({"init", "mode64bit", "provision_key"})}, None, Reason.GUEST_POLICY),
    ("xfrm", {}, (b"\x07" + bytes(7),), Reason.GUEST_POLICY),
    ("misc_select", {}, 1, Reason.GUEST_POLICY),
]
SHARED_CASES: list[tuple[str, dict[str, Any], Any, Reason]] = [
    ("minimum_qe_svn", {}, 10, Reason.TCB_FLOOR),
    ("minimum_pce_svn", {}, 14, Reason.TCB_FLOOR),
    ("qe_vendor_id", {}, bytes(16), Reason.PRODUCT),
    ("tcb_statuses", {"platform.tcb.status": TcbStatus.SW_HARDENING_NEEDED}, None, Reason.TCB_STATUS),
    ("tcb_statuses", {"platform.tcb.status": TcbStatus.TD_RELAUNCH_ADVISED}, None, Reason.TCB_STATUS),
    ("tcb_statuses", _OUT_OF_DATE, None, Reason.TCB_STATUS),
    ("tcb_statuses", _OUT_OF_DATE, StatusRule((TcbStatus.OUT_OF_DATE,), 58), Reason.TCB_STATUS),
    (
        "tcb_statuses",
        {"platform.tcb.status": TcbStatus.OUT_OF_DATE},  # the TDX module's doing: its date is not known
        StatusRule((TcbStatus.OUT_OF_DATE,), 1095),
        Reason.TCB_STATUS,
    ),
    ("tcb_statuses", {}, StatusRule((), 0), Reason.TCB_STATUS),
    ("advisories", {"platform.tcb.advisories": ("INTEL-SA-00615",)}, None, Reason.ADVISORY),
    (
        "advisories",
        {"platform.tcb.advisories": ("INTEL-SA-00289", "INTEL-SA-00615")},
        ("INTEL-SA-00615",),
        Reason.ADVISORY,
    ),
    (
        "rejected_advisories",
        {"platform.tcb.advisories": ("INTEL-SA-00615",)},
        ("INTEL-SA-00615",),
        Reason.ADVISORY,
    ),
    ("minimum_tcb_evaluation", {"platform.tcb.evaluation": 17}, None, Reason.TCB_FLOOR),
    ("minimum_tcb_date", {"platform.tcb.qe": _LEVEL}, datetime(2024, 11, 14, tzinfo=UTC), Reason.TCB_FLOOR),
    (
        "minimum_tcb_date",
        {"platform.tcb.qe": TcbLevel(TcbStatus.UP_TO_DATE, datetime(2024, 3, 12, tzinfo=UTC))},
        None,
        Reason.TCB_FLOOR,
    ),
    ("dynamic_platform", {"platform.pck.dynamic_platform": PckFlag.ON}, Permission.REFUSE, Reason.PLATFORM_INFO),
    ("cached_keys", {"platform.pck.cached_keys": PckFlag.ON}, Permission.REFUSE, Reason.PLATFORM_INFO),
    ("smt", {"platform.pck.smt": PckFlag.ON}, Permission.REFUSE, Reason.PLATFORM_INFO),
    ("smt", {"platform.pck.smt": PckFlag.UNDEFINED}, Permission.REFUSE, Reason.PLATFORM_INFO),
    ("sgx_types", {"platform.pck.sgx_type": SgxType.STANDARD}, (SgxType.SCALABLE,), Reason.PLATFORM_INFO),
    ("sgx_types", {}, (), Reason.PLATFORM_INFO),
    ("ppids", {}, (b"\x79" * 16,), Reason.HARDWARE_NOT_ALLOWED),
    ("ppids", {}, (), Reason.HARDWARE_NOT_ALLOWED),
    ("denied_ppids", {}, (b"\x77" * 16,), Reason.HARDWARE_NOT_ALLOWED),
    ("denied_ppids", {}, (b"\x78" * 16,), Reason.HARDWARE_NOT_ALLOWED),
    ("fmspcs", {}, (b"\x01" * 6,), Reason.PRODUCT),
    ("fmspcs", {}, (), Reason.PRODUCT),
]
CASES = [(name, *case) for name, own in (("tdx", TDX_CASES), ("sgx", SGX_CASES)) for case in (*own, *SHARED_CASES)]


@pytest.mark.parametrize(
    ("name", "knob", "claimed", "value", "reason"),
    CASES,
    ids=[f"{case[0]}-{case[1]}-{place}" for place, case in enumerate(CASES)],
)
def test_each_knob_refuses_what_it_is_for_and_nothing_but_its_skip_lets_it_pass(
    name: str, knob: str, claimed: dict[str, Any], value: Any, reason: Reason
) -> None:
    claims, policy = CLAIMS[name], POLICIES[name]
    for path, content in claimed.items():
        claims = changed(claims, path, content)
    if value is not None:
        policy = replace(policy, **{knob: value})
    failed = failures(claims, policy)
    assert failed[knob] is reason
    skipped = replace(policy, **{knob: NO_REASON})
    assert knob not in failures(claims, skipped)


def test_every_knob_has_such_a_case() -> None:
    cases = {(name, knob) for name, knob, *_ in CASES}
    assert cases == set(EVERY_KNOB) - {("tdx", "assurance"), ("sgx", "assurance")}


GOOD: list[tuple[str, str, dict[str, Any], Any]] = [
    ("tdx", "rtmr1", {"events": (None, (_ONE48, _ONE48), None, None)}, RegisterRule((), (_ONE48, b"\x02" * 48))),
    ("tdx", "event_log", {"events": ((_ONE48,), (), (), ())}, Demand.REQUIRE),
    ("tdx", "mr_seam", {}, (b"\x5e" * 48,)),
    ("tdx", "xfam", {}, ((0x602E7).to_bytes(8, "little"),)),
    ("tdx", "minimum_tee_tcb_svn", {}, bytes([11, 1, 4]) + bytes(13)),
    ("tdx", "minimum_tee_tcb_svn2", {}, bytes([13, 1, 4]) + bytes(13)),
    ("tdx", "debug", {"td.attributes": frozenset({"sept_ve_disable"})}, Permission.ALLOW),
    ("sgx", "xfrm", {}, (b"\xe7" + bytes(7),)),
    ("sgx", "misc_select", {}, 0),
    ("sgx", "minimum_isv_svn", {}, 8),
    ("tdx", "tcb_statuses", _OUT_OF_DATE, StatusRule((TcbStatus.OUT_OF_DATE,), 59)),
    (
        "sgx",
        "tcb_statuses",
        {"platform.tcb.status": TcbStatus.CONFIGURATION_NEEDED},
        StatusRule((TcbStatus.CONFIGURATION_NEEDED,), 0),
    ),
    ("tdx", "advisories", {"platform.tcb.advisories": ("INTEL-SA-00615",)}, ("INTEL-SA-00615", "INTEL-SA-00001")),
    ("tdx", "rejected_advisories", {}, ("INTEL-SA-00615",)),
    ("tdx", "minimum_qe_svn", {}, 9),
    ("tdx", "minimum_pce_svn", {}, 13),
    ("tdx", "minimum_tcb_date", {}, datetime(2024, 11, 13, tzinfo=UTC)),
    ("tdx", "smt", {"platform.pck.smt": PckFlag.ON}, Permission.ALLOW),
    ("tdx", "smt", {}, Permission.REFUSE),
    ("tdx", "ppids", {}, (b"\x77" * 16,)),
    ("tdx", "ppids", {}, (b"\x78" * 16,)),
    ("tdx", "denied_ppids", {}, (b"\x79" * 16,)),
    ("tdx", "fmspcs", {}, (bytes.fromhex("90c06f000000"),)),
]


@pytest.mark.parametrize(("name", "knob", "claimed", "value"), GOOD)
def test_each_knob_lets_pass_what_it_names(name: str, knob: str, claimed: dict[str, Any], value: Any) -> None:
    claims = CLAIMS[name]
    for path, content in claimed.items():
        claims = changed(claims, path, content)
    assert knob not in failures(claims, replace(POLICIES[name], **{knob: value}))


@pytest.mark.parametrize("name", POLICIES)
def test_a_root_that_is_not_intels_gives_no_hardware_assurance(name: str) -> None:
    assert failures(CLAIMS[name], POLICIES[name], digest=b"\x09" * 32) == {"assurance": Reason.ASSURANCE}
    none = replace(POLICIES[name], assurance=Assurance.NONE)
    assert not failures(CLAIMS[name], none, digest=b"\x09" * 32)


def test_mrconfigid_is_the_binding_to_charter_and_plan() -> None:
    other = changed(CLAIMS["tdx"], "td.mr_config_id", b"\x34" * 32 + bytes(16))
    assert failures(other, tdx_policy()) == {"host_data": Reason.HOST_DATA}


def test_report_data_of_another_session_is_refused() -> None:
    for name, field in (("tdx", "td.report_data"), ("sgx", "enclave.report_data")):
        other = changed(CLAIMS[name], field, bytes(64))
        assert failures(other, POLICIES[name]) == {"report_data": Reason.REPORT_DATA}


def test_grace_ends_on_its_day_and_so_does_the_result() -> None:
    claims = CLAIMS["tdx"]
    for path, content in _OUT_OF_DATE.items():
        claims = changed(claims, path, content)
    policy = replace(tdx_policy(), tcb_statuses=StatusRule((TcbStatus.OUT_OF_DATE,), 60))
    end = _LEVEL.date + timedelta(days=60)
    assert appraise(verified(claims), policy, EXPECTED, end).expires == end
    with pytest.raises(AttestationError) as error:
        appraise(verified(claims), policy, EXPECTED, end + timedelta(microseconds=1))
    assert error.value.reason is Reason.TCB_STATUS


def test_grace_counts_from_the_older_of_two_levels() -> None:
    claims = CLAIMS["sgx"]
    for path, content in _OUT_OF_DATE.items():
        claims = changed(claims, path, content)
    older = TcbLevel(TcbStatus.OUT_OF_DATE, datetime(2025, 12, 1, tzinfo=UTC))
    claims = changed(claims, "platform.tcb.qe", older)
    policy = replace(sgx_policy(), tcb_statuses=StatusRule((TcbStatus.OUT_OF_DATE,), 60))
    assert failures(claims, policy) == {"tcb_statuses": Reason.TCB_STATUS}


def test_a_result_ends_with_the_collateral() -> None:
    assert appraise(verified(CLAIMS["tdx"]), tdx_policy(), EXPECTED, NOW).expires == NOW + timedelta(days=10)


def test_a_policy_of_one_platform_judges_no_other() -> None:
    with pytest.raises(ValueError, match="not of the platform"):
        examine(verified(CLAIMS["tdx"]), POLICIES["sgx"], EXPECTED, NOW)


@pytest.mark.parametrize("name", POLICIES)
def test_each_knob_is_a_field_with_a_meaning_and_a_check(name: str) -> None:
    policy = POLICIES[name]
    names = [knob.name for knob in policy.KNOBS]
    assert sorted(field.name for field in fields(policy)) == sorted(names)
    assert list(PLATFORMS[EvidenceFormat(name)].checks) == names
    assert all(knob.meaning for knob in policy.KNOBS)


@pytest.mark.parametrize("name", POLICIES)
def test_the_knobs_are_those_of_the_protocol(name: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    section = text.split("### 3.3")[1].split("## 4.")[0]
    listed = section.split(f"`{name}`:")[1].split("\n\n")[0].split("Those of")[0]
    assert re.findall(r"`([a-z_0-9]+)`", listed) == [knob.name for knob in POLICIES[name].KNOBS]


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_survives_canonical_json(name: str) -> None:
    policy = POLICIES[name]
    again = type(policy).from_json(decode_json(encode_json(policy.to_json())))
    assert again == policy
    assert again.digest == policy.digest


@pytest.mark.parametrize(("name", "knob"), EVERY_KNOB)
def test_an_unset_knob_is_refused(name: str, knob: str) -> None:
    value = POLICIES[name].to_json()
    del value[knob]
    with pytest.raises(WireError) as error:
        type(POLICIES[name]).from_json(value)
    assert error.value.reason is Reason.MISSING_FIELD


@pytest.mark.parametrize(("name", "knob"), EVERY_KNOB)
@pytest.mark.parametrize("value", [None, {}, [{}], [[]], "", "yes", -1, 1.5, True, {"skip": ""}, {"skip": "a", "b": 1}])
def test_a_knob_takes_no_value_of_another_kind(name: str, knob: str, value: Any) -> None:
    with pytest.raises(WireError):
        type(POLICIES[name]).from_json({**POLICIES[name].to_json(), knob: value})


@pytest.mark.parametrize(("name", "knob"), EVERY_KNOB)
def test_an_emptied_knob_never_admits_more(name: str, knob: str) -> None:
    """Whatever emptying leaves of a knob either does not read, or refuses as least as much as before."""
    policy = POLICIES[name]
    shapes: list[Any] = [[], {"allow": [], "grace_days": 0}, {"values": [], "events": []}]
    for empty in shapes:
        try:
            emptied = type(policy).from_json({**policy.to_json(), knob: empty})
        except WireError:
            continue
        failed = failures(CLAIMS[name], emptied)
        nothing_to_refuse = {"advisories", "rejected_advisories", "denied_ppids"}
        assert knob in failed or knob in nothing_to_refuse


@pytest.mark.parametrize(("name", "knob"), EVERY_KNOB)
def test_a_skip_says_why_and_two_knobs_have_none(name: str, knob: str) -> None:
    value = {**POLICIES[name].to_json(), knob: {"skip": "reviewed on paper"}}
    if knob in ("measurements", "assurance"):
        with pytest.raises(WireError) as error:
            type(POLICIES[name]).from_json(value)
        assert error.value.reason is Reason.POLICY_UNSET
        return
    assert getattr(type(POLICIES[name]).from_json(value), knob) == Skip("reviewed on paper")


DIGEST = "11" * 48


@pytest.mark.parametrize(
    ("name", "knob", "value"),
    [
        ("tdx", "measurements", [{"value": "11" * 32, "until": None}]),
        ("tdx", "rtmr1", {"values": [DIGEST]}),
        ("tdx", "rtmr1", {"values": [DIGEST, DIGEST], "events": []}),
        ("tdx", "rtmr1", {"values": ["11" * 32], "events": []}),
        ("tdx", "rtmr1", [DIGEST]),
        ("tdx", "event_log", "allow"),
        ("tdx", "mr_seam", ["11" * 47]),
        ("tdx", "mr_config_id", "00" * 48),
        ("tdx", "xfam", [0xE7]),
        ("tdx", "td_attributes", {"require": ["lass"], "refuse": []}),
        ("tdx", "td_attributes", {"require": ["pks"], "refuse": ["pks"]}),
        ("tdx", "minimum_tee_tcb_svn", "05"),
        ("tdx", "tcb_statuses", {"allow": ["UpToDate"]}),
        ("tdx", "tcb_statuses", {"allow": ["OK"], "grace_days": 0}),
        ("tdx", "tcb_statuses", {"allow": ["Revoked"], "grace_days": 0}),
        ("tdx", "tcb_statuses", {"allow": ["UpToDate"], "grace_days": 1096}),
        ("tdx", "tcb_statuses", ["UpToDate"]),
        ("tdx", "advisories", ["SA-00615"]),
        ("tdx", "advisories", ["INTEL-SA-00615", "INTEL-SA-00615"]),
        ("tdx", "advisories", ["intel-sa-00615"]),
        ("tdx", "minimum_tcb_date", "2024-03-13"),
        ("tdx", "sgx_types", ["scalable", "scalable"]),
        ("tdx", "ppids", ["00" * 16]),
        ("tdx", "ppids", ["11" * 15]),
        ("tdx", "fmspcs", ["90C06F000000"]),
        ("sgx", "measurements", [{"value": DIGEST, "until": None}]),
        ("sgx", "mr_signers", ["11" * 48]),
        ("sgx", "isv_prod_id", 65536),
        ("sgx", "config_id", "00" * 32),
        ("sgx", "attributes", {"require": ["sept_ve_disable"], "refuse": []}),
    ],
)
def test_values_outside_their_rule_are_refused(name: str, knob: str, value: Any) -> None:
    with pytest.raises(WireError) as error:
        type(POLICIES[name]).from_json({**POLICIES[name].to_json(), knob: value})
    assert f"policy.{knob}" in error.value.detail


def test_the_template_for_tdx_admits_nobody_before_kernel_and_command_line_are_pinned() -> None:
    failed = failures(CLAIMS["tdx"], strict_tdx_policy([MRTD], {}))
    assert set(failed) == {"rtmr1", "rtmr2"}


def test_the_templates_refuse_debug_out_of_date_and_any_advisory() -> None:
    for policy in POLICIES.values():
        assert policy.debug is Permission.REFUSE
        assert policy.tcb_statuses == StatusRule((TcbStatus.UP_TO_DATE,), 0)
        assert policy.advisories == ()
        assert policy.assurance is Assurance.HARDWARE


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(EVERY_KNOB), json_values)
def test_any_value_of_a_knob_reads_or_is_refused(pair: tuple[str, str], value: Any) -> None:
    name, knob = pair
    try:
        policy = type(POLICIES[name]).from_json({**POLICIES[name].to_json(), knob: value})
    except ProtocolError:
        return
    assert policy.to_json()[knob] == value
