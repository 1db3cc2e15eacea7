"""The appraisal policy as data: strict, complete, and the same after a round trip."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted.attestation.claims import FirmwareVersion, Tcb
from trusted.attestation.policies.rules import ReferenceValue, Skip, TcbFloor
from trusted.attestation.policies.snp import KNOBS, SnpPolicy, development_snp_policy, strict_snp_policy
from trusted.attestation.policies.snp_checks import KNOB_CHECKS
from trusted.attestation.products import LINES
from trusted.attestation.roots import Assurance
from trusted.errors import ProtocolError, Reason, WireError
from trusted.wire import decode_json, encode_json

MEASUREMENT = b"\x11" * 48
UNTIL = datetime(2027, 1, 31, 12, 30, 59, tzinfo=UTC)
NAMES = [knob.name for knob in KNOBS]


def strict() -> dict[str, Any]:
    return strict_snp_policy([MEASUREMENT]).to_json()


def refused(value: Any) -> Reason:
    with pytest.raises(WireError) as error:
        SnpPolicy.from_json(value)
    return error.value.reason


def test_the_knobs_are_those_of_the_protocol() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    listed = text.split("Those of `snp`:")[1].split("\n## ")[0].split("\n### ")[0]
    assert re.findall(r"`([a-z_]+)`", listed) == NAMES


def test_each_knob_is_a_field_with_a_meaning_and_a_check() -> None:
    assert [field.name for field in fields(SnpPolicy)] == NAMES
    assert list(KNOB_CHECKS) == NAMES
    assert all(knob.meaning for knob in KNOBS)


@pytest.mark.parametrize("make", [strict_snp_policy, development_snp_policy])
def test_a_policy_survives_canonical_json(make: Any) -> None:
    policy = make([MEASUREMENT, ReferenceValue(b"\x22" * 48, UNTIL)])
    again = SnpPolicy.from_json(decode_json(encode_json(policy.to_json())))
    assert again == policy
    assert again.digest == policy.digest


def test_templates_differ_in_what_stands_behind_the_root_alone() -> None:
    strict_json = strict_snp_policy([MEASUREMENT], products=["Genoa"]).to_json()
    development_json = development_snp_policy([MEASUREMENT]).to_json()
    assert {name for name in NAMES if strict_json[name] != development_json[name]} == {"assurance"}
    assert development_snp_policy([MEASUREMENT]).assurance is Assurance.NONE
    assert strict_snp_policy([MEASUREMENT]).assurance is Assurance.HARDWARE


@pytest.mark.parametrize("name", NAMES)
def test_an_unset_knob_is_refused(name: str) -> None:
    value = strict()
    del value[name]
    assert refused(value) is Reason.MISSING_FIELD


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "value", [None, {}, [{}], "", "yes", -1, 1.5, True, {"skip": ""}, {"skip": None}, {"skip": "a", "b": 1}]
)
def test_a_knob_takes_no_value_of_another_kind(name: str, value: Any) -> None:
    if name in ("minimum_tcb", "minimum_launch_tcb") and value == {}:
        return  # no floor for any product: refuses every product when it is applied
    policy = {**strict(), name: value}
    with pytest.raises(WireError):
        SnpPolicy.from_json(policy)


def test_an_unknown_knob_is_refused() -> None:
    assert refused({**strict(), "trust_me": True}) is Reason.UNKNOWN_FIELD


@pytest.mark.parametrize("value", [None, [], "policy", 1])
def test_a_policy_is_an_object(value: Any) -> None:
    assert refused(value) is Reason.WRONG_TYPE


@pytest.mark.parametrize("name", NAMES)
def test_a_skip_says_why_and_survives(name: str) -> None:
    value = {**strict(), name: {"skip": "reviewed on paper"}}
    if name in ("measurements", "assurance"):
        assert refused(value) is Reason.POLICY_UNSET
        return
    policy = SnpPolicy.from_json(value)
    assert getattr(policy, name) == Skip("reviewed on paper")
    assert policy.to_json() == value


GOOD_TCB = {"bl": 1, "tee": 0, "snp": 2, "ucode": 3}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("products", ["Rome"]),
        ("products", ["Genoa", "Genoa"]),
        ("products", [["Genoa"]]),
        ("measurements", []),
        ("measurements", [{"value": "11" * 47, "until": None}]),
        ("measurements", [{"value": "11" * 49, "until": None}]),
        ("measurements", [{"value": "AA" * 48, "until": None}]),
        ("measurements", [{"value": "11" * 48}]),
        ("measurements", [{"value": "11" * 48, "until": "2027-01-31"}]),
        ("measurements", [{"value": "11" * 48, "until": "2027-1-31T00:00:00Z"}]),
        ("measurements", [{"value": "11" * 48, "until": None}] * 2),
        ("measurements", ["11" * 48]),
        ("minimum_version", 1),
        ("minimum_version", 6),
        ("minimum_tcb", {"Genoa": {"bl": 1, "tee": 0, "snp": 2}}),
        ("minimum_tcb", {"Genoa": {**GOOD_TCB, "fmc": 0}}),
        ("minimum_tcb", {"Genoa": {**GOOD_TCB, "snp": 256}}),
        ("minimum_tcb", {"Turin": GOOD_TCB}),
        ("minimum_tcb", {"Rome": GOOD_TCB}),
        ("minimum_guest_svn", 1 << 32),
        ("minimum_firmware", {"major": 1, "minor": 55}),
        ("minimum_firmware", {"major": 1, "minor": 55, "build": 256}),
        ("debug", "off"),
        ("single_socket", "allow"),
        ("vmpl", 4),
        ("platform_info", {"require": ["sgx"], "refuse": []}),
        ("platform_info", {"require": ["smt"], "refuse": ["smt"]}),
        ("platform_info", {"require": []}),
        ("chip_ids", ["11" * 63]),
        ("chip_ids", ["00" * 64]),
        ("chip_ids", ["11" * 64] * 2),
        ("chip_ids", [5]),
        ("denied_chip_ids", ["11" * 65]),
        ("vlek", {"providers": [""]}),
        ("vlek", {"providers": ["a", "a"]}),
        ("vlek", {"providers": [{}]}),
        ("author_keys", ["11" * 32]),
        ("id_keys", ["00" * 48]),
        ("family_id", "11" * 15),
        ("image_id", "11" * 17),
        ("minimum_abi", {"major": 1}),
        ("mitigations", {"launch": [64], "current": []}),
        ("mitigations", {"launch": [True], "current": []}),
        ("mitigations", {"launch": [1, 1], "current": []}),
        ("revocation", {"max_age_days": 0}),
        ("revocation", {"max_age_days": 3661}),
        ("assurance", "software"),
    ],
)
def test_values_outside_their_rule_are_refused(name: str, value: Any) -> None:
    with pytest.raises(WireError) as error:
        SnpPolicy.from_json({**strict(), name: value})
    assert f"policy.{name}" in error.value.detail


def test_an_error_names_the_policy_that_is_wrong() -> None:
    with pytest.raises(WireError, match=r"charter\.worker\.vmpl: 0 to 3 expected"):
        SnpPolicy.from_json({**strict(), "vmpl": 9}, "charter.worker")


def test_the_strict_template_never_admits_any_milan_chip() -> None:
    assert strict_snp_policy([MEASUREMENT]).products == ("Genoa", "Turin")
    assert strict_snp_policy([MEASUREMENT], products=["Milan"], chip_ids=[b"\x01" * 64]).chip_ids == (b"\x01" * 64,)


def test_a_template_refuses_what_a_policy_cannot_hold() -> None:
    for measurements in ([], [b"short"], [MEASUREMENT, MEASUREMENT]):
        with pytest.raises(WireError):
            strict_snp_policy(measurements)
    with pytest.raises(WireError):
        strict_snp_policy([MEASUREMENT], products=["Rome"])


def test_firmware_versions_are_ordered_part_by_part() -> None:
    assert FirmwareVersion(1, 55, 40) < FirmwareVersion(1, 56, 0) < FirmwareVersion(2, 0, 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(NAMES), json_values)
def test_any_value_of_a_knob_reads_or_is_refused(name: str, value: Any) -> None:
    try:
        policy = SnpPolicy.from_json({**strict(), name: value})
    except ProtocolError:
        return
    assert policy.to_json()[name] == value


# floors of AMD's silicon lines


def test_each_line_of_the_products_has_a_floor_of_its_own() -> None:
    """Microcode is numbered line by line: what is mended on one would be far too old on the next."""
    rule = strict_snp_policy([MEASUREMENT], products=["Genoa", "Milan", "Turin"]).minimum_tcb
    assert isinstance(rule, TcbFloor)
    microcode = {line: dict(tcb.components)["ucode"] for line, tcb in rule.floors}
    assert microcode == {
        "Bergamo": 25,
        "Genoa": 84,
        "Genoa-X": 79,
        "Milan": 219,
        "Milan-X": 68,
        "Turin": 71,
        "Turin-Dense": 71,
    }
    assert [line for line, _ in rule.floors] == sorted(LINES)


def test_a_line_without_a_floor_takes_its_products_and_no_other() -> None:
    rule = TcbFloor((("Genoa", Tcb((("bl", 1),))), ("Genoa-X", Tcb((("bl", 2),)))))
    assert rule.of("Genoa-X", "Genoa") == Tcb((("bl", 2),))
    assert rule.of("Bergamo", "Genoa") == Tcb((("bl", 1),))
    assert rule.of("Milan-X", "Milan") is None
    assert TcbFloor((("Genoa-X", Tcb((("bl", 2),))),)).of("Genoa", "Genoa") is None
