"""``cloister charter lint`` and ``template``: each weakness has a name, and a template says what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from console.charter_lint import Severity, Weakness, lint
from console.templates import open_questions, template_of
from tests.console.conftest import Cloister, Consortium
from tests.documents.consortium import MEASUREMENT, NOW, charter_json, production_json
from trusted.attestation.device_policy import ONLY_DEVICES
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.policies.rules import ReferenceValue
from trusted.attestation.policies.snp import strict_snp_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.documents.charter import Charter
from trusted.documents.schema import write_time
from trusted.errors import WireError
from trusted.wire import encode_json, sha256


def weaknesses(document: dict[str, Any]) -> list[Weakness]:
    return lint(Charter.parse(encode_json(document)))


def rules(document: dict[str, Any]) -> set[str]:
    return {weakness.rule for weakness in weaknesses(document)}


def worker(**knobs: Any) -> dict[str, Any]:
    """A production charter whose worker's policy has other knobs."""
    document = production_json()
    document["worker"]["snp"] |= knobs
    return document


def at(document: dict[str, Any], path: str) -> list[Weakness]:
    return [weakness for weakness in weaknesses(document) if weakness.path == path]


def test_a_development_charter_is_severely_weak_and_says_why() -> None:
    found = weaknesses(charter_json())
    severe = {weakness.rule for weakness in found if weakness.severity is Severity.SEVERE}
    assert severe == {"development-profile", "software-root", "no-assurance"}
    assert [weakness.severity.rank for weakness in found] == sorted(
        (weakness.severity.rank for weakness in found), reverse=True
    )


def test_a_strict_production_charter_has_no_severe_weakness() -> None:
    assert all(weakness.severity is not Severity.SEVERE for weakness in weaknesses(production_json()))


@pytest.mark.parametrize("days", [365, 400])
def test_a_year_is_not_too_long(days: int) -> None:
    document = production_json(not_before=write_time(NOW), not_after=write_time(NOW + timedelta(days=days)))
    assert "long-validity" not in rules(document)


def test_more_than_that_is() -> None:
    document = production_json(not_before=write_time(NOW), not_after=write_time(NOW + timedelta(days=401)))
    assert "long-validity" in rules(document)


def test_thresholds_at_both_ends_are_named() -> None:
    assert "bare-majority" in rules(production_json())
    assert "unanimity" in rules(production_json(thresholds={"charter": 3, "plan": 3}))
    assert not {"bare-majority"} & rules(production_json(thresholds={"charter": 3, "plan": 3}))


@pytest.mark.parametrize(
    ("knob", "severity", "word"),
    [
        ("minimum_tcb", Severity.WARNING, "old firmware"),
        ("revocation", Severity.WARNING, "revoked"),
        ("vmpl", Severity.WARNING, "less privileged"),
        ("platform_info", Severity.WARNING, "BadRAM"),
        ("family_id", Severity.NOTE, "anything"),
    ],
)
def test_each_skip_says_what_it_opens_and_quotes_its_reason(knob: str, severity: Severity, word: str) -> None:
    (found,) = at(worker(**{knob: {"skip": "we are in a hurry"}}), f"worker.snp.{knob}")
    assert (found.rule, found.severity) == ("skip", severity)
    assert word in found.opens
    assert "we are in a hurry" in found.opens


def test_a_skipped_debug_and_an_allowed_migration_are_severe() -> None:
    document = charter_json()
    document["worker"]["snp"] |= {"debug": {"skip": "a test"}, "migration": "allow"}
    assert [item.severity for item in at(document, "worker.snp.debug")] == [Severity.SEVERE]
    assert [item.rule for item in at(document, "worker.snp.migration")] == ["allow"]
    assert not at(document, "worker.snp.smt")  # every cloud launches its guests so


def test_milan_is_severe_without_a_list_and_a_warning_with_one() -> None:
    policy = strict_snp_policy([MEASUREMENT], products=["Milan"], chip_ids=[b"\x01" * 64])
    document = production_json(worker={"snp": policy.to_json()})
    (listed,) = [item for item in weaknesses(document) if item.rule == "milan"]
    assert listed.severity is Severity.WARNING
    document["worker"]["snp"]["chip_ids"] = {"skip": "any"}
    (anyone,) = [item for item in weaknesses(document) if item.rule == "milan"]
    assert anyone.severity is Severity.SEVERE


def test_without_a_list_of_machines_nobody_vouches_for_physical_possession() -> None:
    assert "no-machine-list" in {item.rule for item in at(worker(), "worker.snp.chip_ids")}
    assert "no-machine-list" not in {item.rule for item in at(worker(chip_ids=["01" * 64]), "worker.snp.chip_ids")}


def test_old_lists_provider_keys_and_one_vendor_are_named() -> None:
    assert "old-revocation-list" in rules(worker(revocation={"max_age_days": 401}))
    assert "old-revocation-list" not in rules(worker(revocation={"max_age_days": 400}))
    assert "provider-keys" in rules(worker(vlek={"providers": ["CN=cloud"]}))
    assert "single-vendor" in rules(production_json())


def test_one_image_for_both_roles_and_many_images_are_named() -> None:
    assert "same-measurement" in rules(production_json())
    many = [{"value": f"{number:02x}" * 48, "until": None} for number in range(3)]
    assert "many-measurements" in rules(worker(measurements=many))
    assert "same-measurement" not in rules(worker(measurements=many))


def test_a_platform_without_a_root_admits_nobody_and_lint_says_so() -> None:
    charter = Charter.parse(encode_json(production_json()))
    tdx = completed(template_of(EvidenceFormat.TDX))
    both = AppraisalPolicy.from_json({**charter.worker.to_json(), **tdx})
    assert "no-root" in {item.rule for item in lint(replace(charter, worker=both)) if "tdx" in item.path}


def test_grace_and_accepted_advisories_of_intel_are_named() -> None:
    charter = Charter.parse(encode_json(production_json()))
    tdx = completed(template_of(EvidenceFormat.TDX))
    tdx["tdx"] |= {
        "tcb_statuses": {"allow": ["UpToDate", "OutOfDate"], "grace_days": 30},
        "advisories": ["INTEL-SA-00960"],
    }
    found = lint(replace(charter, worker=AppraisalPolicy.from_json(tdx)))
    assert {"grace", "advisories"} <= {item.rule for item in found}


def completed(template: Any) -> Any:
    """A template with everything filled in."""
    if isinstance(template, dict):
        return {key: completed(value) for key, value in template.items()}
    if isinstance(template, list):
        return [completed(value) for value in template]
    if not isinstance(template, str) or "REPLACE-" not in template:
        return template
    return "my-project-1" if "PROJECT" in template else "1f" * int(template.split("-")[2])


@pytest.mark.parametrize("format", list(EvidenceFormat), ids=lambda format: format.value)
def test_a_template_reads_once_it_is_filled_in_and_not_before(format: EvidenceFormat) -> None:
    template = template_of(format)
    beside = {} if format not in ONLY_DEVICES else completed(template_of(EvidenceFormat.SNP))
    policy = AppraisalPolicy.from_json(completed(template) | beside)
    assert AppraisalPolicy.from_json(policy.to_json()) == policy
    if open_questions(template):
        with pytest.raises(WireError):
            AppraisalPolicy.from_json(template | beside)


@pytest.mark.parametrize("format", list(EvidenceFormat), ids=lambda format: format.value)
def test_no_template_is_severely_weak(format: EvidenceFormat) -> None:
    charter = Charter.parse(encode_json(production_json()))
    beside = {} if format not in ONLY_DEVICES else completed(template_of(EvidenceFormat.SNP))
    policy = AppraisalPolicy.from_json(completed(template_of(format)) | beside)
    found = [item for item in lint(replace(charter, worker=policy)) if item.path.startswith("worker")]
    assert [item for item in found if item.severity is Severity.SEVERE] == []


def tpm(**knobs: Any) -> dict[str, Any]:
    """A TPM's completed policy, with other knobs."""
    return dict(completed(template_of(EvidenceFormat.TPM))["tpm"]) | knobs


def linted(worker: dict[str, Any]) -> dict[str, set[str]]:
    """The rules that name a weakness of this worker's policy, by path."""
    charter = replace(Charter.parse(encode_json(production_json())), worker=AppraisalPolicy.from_json(worker))
    found: dict[str, set[str]] = {}
    for item in lint(charter):
        found.setdefault(item.path, set()).add(item.rule)
    return found


def test_a_tpm_beside_a_tee_has_a_template_of_its_own() -> None:
    template = template_of(EvidenceFormat.TPM, as_device=True)
    assert template == {"devices": {"tpm": {"count": {"min": 1, "max": 1}, **template_of(EvidenceFormat.TPM)["tpm"]}}}  # type: ignore[dict-item]
    snp = completed(template_of(EvidenceFormat.SNP))
    policy = AppraisalPolicy.from_json(completed(template) | snp)
    assert set(policy.platforms) == {EvidenceFormat.SNP}
    assert set(policy.devices) == {EvidenceFormat.TPM}
    with pytest.raises(WireError):
        AppraisalPolicy.from_json(template | snp)


def test_a_tpm_in_the_tees_place_is_a_weakness_and_one_beside_it_is_none() -> None:
    snp = completed(template_of(EvidenceFormat.SNP))
    assert "tpm-alone" in linted({"tpm": tpm()})["worker.tpm"]
    beside = linted({**snp, "devices": {"tpm": {"count": {"min": 1, "max": 1}, **tpm()}}})
    assert "worker.tpm" not in beside
    assert beside["worker.devices.tpm"] == {"no-root"}


@pytest.mark.parametrize(("selection", "weak"), [([11], False), ([0, 15], False), ([11, 16], True), ([23], True)])
def test_pcrs_that_anybody_resets_are_named(selection: list[int], weak: bool) -> None:
    pcrs = {"bank": "sha256", "selection": selection, "values": {}}
    found = linted({"tpm": tpm(pcrs=pcrs)})
    assert ("resettable-pcrs" in found.get("worker.tpm.pcrs", set())) is weak


def test_the_command_fails_from_the_severity_on_that_it_is_told(cloister: Cloister, consortium: Consortium) -> None:
    charter = consortium / "charter.dsse.json"
    answer = cloister("charter", "lint", charter)
    assert answer.code == 3
    assert {"rule", "severity", "path", "opens", "remedy"} == set(answer.data["weaknesses"][0])
    assert cloister("charter", "lint", charter, "--fail-on", "never").code == 0
    words = cloister("charter", "lint", charter, json=False)
    assert "SEVERE profile" in words.stdout
    assert "To close it:" in words.stdout


def test_a_template_from_the_command_line_makes_a_charter(
    cloister: Cloister, consortium: Consortium, tmp_path: Path
) -> None:
    printed = cloister("charter", "template", "snp", json=False)
    assert json.loads(printed.stdout) == template_of(EvidenceFormat.SNP)
    asked = cloister("charter", "template", "snp")
    assert asked.data["replace"] == ["snp.measurements[0].value"]
    (tmp_path / "policy.json").write_text(printed.stdout)
    options = [*consortium.charter_options[:-4], "--vendor-root", "Genoa", "--out", tmp_path / "c.json"]
    policies = ["--aggregator-policy", tmp_path / "policy.json", "--worker-policy", tmp_path / "policy.json"]
    assert cloister("charter", "new", *options, *policies).error["code"] == "WIR-101"
    (tmp_path / "policy.json").write_text(json.dumps(completed(json.loads(printed.stdout)), indent=4))
    assert cloister("charter", "new", *options, *policies).code == 0
    (tmp_path / "policy.json").write_text('{"snp": {}, "snp": {}}')
    assert cloister("charter", "new", *options, *policies).error["code"] == "CLI-001"


def test_the_template_of_a_device_is_for_devices_alone(cloister: Cloister) -> None:
    assert list(cloister("charter", "template", "tpm").data["policy"]) == ["tpm"]
    assert list(cloister("charter", "template", "tpm", "--as-device").data["policy"]) == ["devices"]
    assert "tpm" in cloister("charter", "template", "snp", "--as-device").error["hint"]


def test_an_unknown_platform_is_named_with_those_that_are_known(cloister: Cloister) -> None:
    refused = cloister("charter", "template", "riscv")
    assert refused.code == 1
    assert "snp" in refused.error["hint"]


def test_windows_of_measurements_do_not_count_twice() -> None:
    policy = strict_snp_policy([ReferenceValue(MEASUREMENT), ReferenceValue(b"\x5b" * 48, NOW)])
    assert "many-measurements" not in rules(production_json(worker={"snp": policy.to_json()}))


def assurance_rules(document: dict[str, Any], format: str = "snp") -> set[str]:
    return {weakness.rule for weakness in at(document, f"worker.{format}.assurance")}


def test_hardware_alone_is_told_to_vouch_for_no_place_and_possession_is_not() -> None:
    assert assurance_rules(worker()) == {"no-possession"}
    chips = {"chip_ids": ["7a" * 64]}
    (note,) = at(worker(**chips), "worker.snp.assurance")
    assert (note.rule, note.remedy) == ("no-possession", "write possession")
    assert assurance_rules(worker(**chips, assurance="possession")) == set()


@pytest.mark.parametrize("chips", [[], {"skip": "any chip"}])
def test_possession_without_a_list_is_told_to_admit_nobody(chips: object) -> None:
    assert assurance_rules(worker(chip_ids=chips, assurance="possession")) == {"no-list-to-possess"}


def test_a_providers_word_is_a_weakness_and_its_template_asks_for_no_more() -> None:
    assert template_of(EvidenceFormat.GCP_CS)["gcp-cs"]["assurance"] == "provider"  # type: ignore[index, call-overload]
    assert assurance_rules(worker(assurance="provider")) == {"provider-word"}


def test_a_production_charter_takes_a_providers_root_from_the_command_line(
    consortium: Consortium, cloister: Cloister
) -> None:
    (consortium / "jwks.json").write_bytes(b'{"keys":[]}')
    out = consortium / "production.json"
    options = [*consortium.charter_options, "--vendor-root", "Genoa", "--out", out]
    made = cloister("charter", "new", *options, "--provider-root", f"gcp-cs={consortium / 'jwks.json'}")
    assert made.code == 0, made.stderr
    root = made.data["charter"]["roots"][-1]
    assert (root["format"], root["assurance"]) == ("gcp-cs", "provider")
    assert root["sha256"] == sha256(b'{"keys":[]}').hex()
    assert "Confidential Space (provider)" in cloister("charter", "show", out, json=False).stdout
    told = cloister("charter", "new", *options, "--force", "--provider-root", f"gcp-cs={'ab' * 32}", json=False)
    assert "a provider's, for which the members alone vouch" in told.stdout
    for wrong in ("snp=" + "ab" * 32, "gcp-cs", "gcp-cs=", "poem=" + "ab" * 32):
        again = cloister("charter", "new", *options, "--force", "--provider-root", wrong)
        assert again.error["code"] == "CLI-001"
