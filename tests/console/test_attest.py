"""``cloister attest``: what evidence proves and does not, claim by claim, as an admission would find it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from softtee.chip import Chip, SoftwareRoot
from tests.attestation.vectors import SNP_NAMES, folder, load, pem_chain
from tests.console.conftest import Answer, Cloister, Consortium
from trusted.attestation.binding import host_data
from trusted.attestation.evidence import Evidence
from trusted.attestation.policies.snp import KNOBS

WORKER = b"\xa5" * 48  # the measurement in Consortium.charter_options
REPORT_DATA = bytes(range(64))
STEPS = 5


def failed(answer: Answer) -> dict[str, dict[str, Any]]:
    """The failed checks by claim."""
    return {check["claim"]: check for check in answer.data["checks"] if check["verdict"] == "fail"}


def verdict_of(answer: Answer, claim: str) -> str:
    return str(next(check["verdict"] for check in answer.data["checks"] if check["claim"] == claim))


@dataclass(frozen=True, slots=True)
class Attested:
    """A consortium whose charter trusts a software root, and evidence under it."""

    consortium: Consortium
    chip: Chip
    host_data: bytes

    @property
    def papers(self) -> list[object]:
        charter = ["--charter", self.consortium / "charter.dsse.json", "--role", "worker"]
        return [*charter, "--plan", self.consortium / "plan.dsse.json"]

    def evidence(self, *, measurement: bytes = WORKER, data: bytes | None = None) -> Evidence:
        return self.chip.attest(report_data=REPORT_DATA, measurement=measurement, host_data=data or self.host_data)

    def write(self, evidence: Evidence) -> Path:
        path = self.consortium / "evidence.bin"
        path.write_bytes(evidence.encode())
        return path


@pytest.fixture
def attested(consortium: Consortium, cloister: Cloister, chip: Chip, software_root: SoftwareRoot) -> Attested:
    """Charter and plan signed by everybody; the charter trusts ``software_root``."""
    charter, plan = consortium / "charter.dsse.json", consortium / "plan.dsse.json"
    new = ["--profile", "development", "--software-root", software_root.sha256.hex(), "--out", charter, "--force"]
    assert cloister("charter", "new", *consortium.charter_options, *new).code == 0
    for member in ("bank-c", "hospital-a", "lab-b"):
        assert cloister("charter", "sign", charter, "--key", consortium.key(member), "--yes").code == 0
    made = cloister("plan", "new", *consortium.plan_options, "--out", plan)
    for member in ("bank-c", "hospital-a", "lab-b"):
        sign = ["--charter", charter, "--key", consortium.key(member), "--yes"]
        assert cloister("plan", "sign", plan, *sign).code == 0
    digest = cloister("charter", "verify", charter).data["digest"]
    return Attested(consortium, chip, host_data("worker", bytes.fromhex(digest), bytes.fromhex(made.data["digest"])))


def test_evidence_that_would_be_admitted_is_affirming(attested: Attested, cloister: Cloister) -> None:
    path = attested.write(attested.evidence())
    answer = cloister("attest", "explain", path, *attested.papers, "--report-data", REPORT_DATA.hex())
    assert (answer.code, answer.data["verdict"], answer.data["assurance"]) == (0, "affirming", "none")
    assert answer.data["binding_not_checked"] == []
    assert answer.data["claims"]["measurement"] == WORKER.hex()
    claims = {check["claim"] for check in answer.data["checks"]}
    assert claims >= {knob.name for knob in KNOBS} | {"report_data", "host_data"}
    assert {check["verdict"] for check in answer.data["checks"]} == {"pass", "skip"}


def test_software_is_told_to_protect_nothing(attested: Attested, cloister: Cloister) -> None:
    path = attested.write(attested.evidence())
    said = cloister("attest", "explain", path, *attested.papers, json=False).stdout
    assert "NO HARDWARE PROTECTION" in said
    assert said.splitlines()[-1].startswith("Verdict: affirming, binding not checked")


def test_a_binding_that_nobody_gave_is_not_counted_as_a_pass(attested: Attested, cloister: Cloister) -> None:
    path = attested.write(attested.evidence())
    answer = cloister("attest", "explain", path, *attested.papers[:4])
    assert (answer.code, answer.data["binding_not_checked"]) == (0, ["report_data", "host_data"])
    said = cloister("attest", "explain", path, *attested.papers[:4], json=False).stdout
    assert "Binding NOT checked (report_data, host_data)" in said


@pytest.mark.parametrize("bit", [0, 511])
def test_another_sessions_evidence_is_refused(attested: Attested, cloister: Cloister, bit: int) -> None:
    other = (int.from_bytes(REPORT_DATA, "big") ^ 1 << bit).to_bytes(64, "big")
    path = attested.write(attested.evidence())
    for papers in (attested.papers, ["--software-root", attested_root(attested)]):
        answer = cloister("attest", "explain", path, *papers, "--report-data", other.hex())
        assert (answer.code, answer.data["verdict"]) == (4, "refused")
        assert failed(answer)["report_data"]["reason"] == "ATT-213"


def attested_root(attested: Attested) -> Path:
    path = attested.consortium / "ark.der"
    path.write_bytes(attested.chip.certificate_chain[2])
    return path


def test_each_failure_has_its_remedy_and_its_runbook_page(attested: Attested, cloister: Cloister) -> None:
    path = attested.write(attested.evidence(measurement=b"\xa4" * 48, data=bytes(32)))
    answer = cloister("attest", "explain", path, *attested.papers)
    assert answer.code == 4
    assert answer.envelope["status"] == "ok"  # one object, with every check in it
    found = failed(answer)
    assert {claim: check["reason"] for claim, check in found.items()} == {
        "host_data": "ATT-221",
        "measurements": "ATT-214",
    }
    assert found["measurements"]["runbook"] == "docs/runbook.md#att-214"
    assert all(check["remedy"] for check in found.values())
    said = cloister("attest", "explain", path, *attested.papers, json=False).stdout
    assert "docs/runbook.md#att-221" in said
    assert ("a4" * 48) in said  # whole, to compare and to copy
    assert said.splitlines()[-1] == "Verdict: refused, ATT-221 HOST_DATA, ATT-214 MEASUREMENT."


def test_the_aggregators_policy_is_not_the_workers(attested: Attested, cloister: Cloister) -> None:
    path = attested.write(attested.evidence())
    papers = [option if option != "worker" else "aggregator" for option in attested.papers]
    assert set(failed(cloister("attest", "explain", path, *papers))) == {"host_data", "measurements"}


def test_a_software_root_that_nobody_named_is_refused(attested: Attested, cloister: Cloister) -> None:
    path = attested.write(attested.evidence())
    answer = cloister("attest", "explain", path)
    assert (answer.code, answer.data["claims"], answer.data["assurance"]) == (4, {}, None)
    assert failed(answer)["the chain ends in a trusted root"]["reason"] == "ATT-203"
    assert cloister("attest", "explain", path, "--software-root", attested_root(attested)).data["verdict"] == "verified"


def vector_options(name: str, *, at: str = "") -> list[object]:
    path = folder("snp", name)
    certificates = ["--cert", path / "ask_ark.pem", "--cert", path / "cek.der"]
    return [path / "report.bin", *certificates, *(["--at", at] if at else [])]


@pytest.mark.parametrize("name", SNP_NAMES)
def test_each_real_report_comes_out_as_its_provenance_says(name: str, cloister: Cloister) -> None:
    for case in load(name).cases:
        answer = cloister("attest", "explain", *vector_options(name, at=case["time"]))
        if case["expect"] == "valid" or case.get("stage") == "appraise":  # genuine, whatever a policy says of it
            assert (answer.code, answer.data["verdict"], answer.data["assurance"]) == (0, "verified", "hardware")
        else:
            assert (answer.code, answer.data["verdict"]) == (4, "refused")
            assert len(failed(answer)) == 1


def test_without_a_charter_nobodys_policy_is_claimed_to_hold(cloister: Cloister) -> None:
    answer = cloister("attest", "explain", *vector_options("milan_v2", at="2026-11-01T00:00:00Z"))
    for claim in ("policy", "report_data", "host_data", "revocation"):
        assert verdict_of(answer, claim) == "not checked"
    expected = load("milan_v2").expected
    assert answer.data["claims"]["measurement"] == expected["measurement"]
    assert answer.data["claims"]["chip_id"] == expected["chip_id"]


def test_a_debug_guest_is_told_to_have_no_secrets(cloister: Cloister) -> None:
    vector = load("milan_v2_debug")
    at = f"{vector.valid_at:%Y-%m-%dT%H:%M:%SZ}"
    assert "Debug is ON" in cloister("attest", "explain", *vector_options("milan_v2_debug", at=at), json=False).stdout


@pytest.mark.parametrize(
    ("name", "step", "reason"),
    [
        ("bad_milan_v2_tampered_vcek_new", "the certificates' signatures and dates hold", "ATT-204"),
        ("bad_milan_virtee_report_with_gosev_vcek", "the chip's key signed the report", "ATT-209"),
    ],
)
def test_the_step_that_failed_is_named_and_no_later_one_passes(
    name: str, step: str, reason: str, cloister: Cloister
) -> None:
    answer = cloister("attest", "explain", *vector_options(name, at="2026-11-01T00:00:00Z"))
    verdicts = [check["verdict"] for check in answer.data["checks"]]
    at = verdicts.index("fail")
    assert (answer.data["checks"][at]["claim"], answer.data["checks"][at]["reason"]) == (step, reason)
    assert verdicts == ["pass"] * at + ["fail"] + ["not checked"] * (STEPS - 1 - at)


@pytest.mark.parametrize("change", ["a byte short", "a byte long", "a bit flipped"])
def test_a_damaged_report_is_refused(change: str, cloister: Cloister, tmp_path: Path) -> None:
    options = vector_options("milan_v2", at="2026-11-01T00:00:00Z")
    report = (folder("snp", "milan_v2") / "report.bin").read_bytes()
    flipped = report[:0x90] + bytes([report[0x90] ^ 1]) + report[0x91:]
    changed = {"a byte short": report[:-1], "a byte long": report + b"\0", "a bit flipped": flipped}
    (tmp_path / "report.bin").write_bytes(changed[change])
    answer = cloister("attest", "explain", tmp_path / "report.bin", *options[1:])
    step = "the chip's key signed the report" if "bit" in change else "report and certificates are well formed"
    assert (answer.code, list(failed(answer))) == (4, [step])


def test_certificates_are_taken_in_any_order_and_form(cloister: Cloister, tmp_path: Path) -> None:
    path = folder("snp", "milan_v2")
    ask, ark = pem_chain(path / "ask_ark.pem")
    (tmp_path / "ask.der").write_bytes(ask)
    (tmp_path / "ark.pem").write_bytes(x509.load_der_x509_certificate(ark).public_bytes(Encoding.PEM))
    files = [tmp_path / "ark.pem", path / "cek.der", tmp_path / "ask.der"]
    options = [option for file in files for option in ("--cert", file)]
    at = ["--at", "2026-11-01T00:00:00Z"]
    assert cloister("attest", "explain", path / "report.bin", *options, *at).data["verdict"] == "verified"
    assert "2 certificates" in cloister("attest", "explain", path / "report.bin", *options[:4]).error["message"]


def test_a_revocation_list_goes_with_a_bare_report(cloister: Cloister, tmp_path: Path) -> None:
    crl = folder("anchors", "amd") / "crl_ark_milan_2022-05.der"
    options = [*vector_options("milan_v2", at="2026-11-01T00:00:00Z"), "--crl"]
    answer = cloister("attest", "explain", *options, crl)
    assert answer.data["claims"]["revocation_list"] == "stale"
    assert verdict_of(answer, "revocation") == "not checked"  # it revokes nothing, and is too old to say more
    for damaged in (crl.read_bytes()[:-1], crl.read_bytes() + b"\0"):
        (tmp_path / "crl.der").write_bytes(damaged)
        refused = cloister("attest", "explain", *options, tmp_path / "crl.der")
        assert [check["reason"] for check in failed(refused).values()] == ["ATT-204"]


def test_a_bare_report_with_its_files_is_worth_as_much_as_its_container(
    chip: Chip, software_root: SoftwareRoot, cloister: Cloister, tmp_path: Path
) -> None:
    evidence = chip.attest(report_data=REPORT_DATA, measurement=WORKER, host_data=bytes(32))
    files = {"report": evidence.report, "crl": evidence.crl}
    files |= {f"{number}": der for number, der in enumerate(evidence.certificates)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    options = [option for number in (2, 0, 1) for option in ("--cert", tmp_path / str(number))]
    root = ["--software-root", software_root.sha256.hex()]
    answer = cloister("attest", "explain", tmp_path / "report", *options, "--crl", tmp_path / "crl", *root)
    assert (answer.data["verdict"], verdict_of(answer, "revocation")) == ("verified", "pass")
    (tmp_path / "container").write_bytes(evidence.encode())
    assert cloister("attest", "explain", tmp_path / "container", *root).data == answer.data


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--role", "worker"], "--charter"),
        (["--report-data", "00" * 63], "64 bytes"),
        (["--report-data", "00" * 65], "64 bytes"),
        (["--at", "yesterday"], "--at"),
        (["--at", "2026-13-01T00:00:00Z"], "--at"),
        (["--cert", "none.der"], "carries its own"),
    ],
)
def test_options_that_do_not_go_together_are_told(
    chip: Chip, cloister: Cloister, tmp_path: Path, options: list[str], said: str
) -> None:
    path = tmp_path / "evidence.bin"
    path.write_bytes(chip.attest(report_data=REPORT_DATA, measurement=WORKER, host_data=bytes(32)).encode())
    answer = cloister("attest", "explain", path, *options)
    assert (answer.code, answer.error["code"]) == (1, "CLI-001")
    assert said in answer.error["message"]


@pytest.mark.parametrize("content", [b"", b"\0", b"text", b"\x02" * 1184])
def test_what_is_no_evidence_is_told(cloister: Cloister, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    answer = cloister("attest", "explain", tmp_path / "file")
    assert answer.code == 1
    assert "--cert" in answer.error["hint"]


def test_a_container_cut_short_is_refused(chip: Chip, cloister: Cloister, tmp_path: Path) -> None:
    evidence = chip.attest(report_data=REPORT_DATA, measurement=WORKER, host_data=bytes(32)).encode()
    for damaged in (evidence[:-1], evidence + b"\0"):
        (tmp_path / "file").write_bytes(damaged)
        assert cloister("attest", "explain", tmp_path / "file").error["code"].startswith("WIR-")


def test_a_software_sample_says_that_it_is_one(
    chip: Chip, cloister: Cloister, tmp_path: Path, software_root: SoftwareRoot
) -> None:
    chip.save(tmp_path / "chip")
    software_root.save(tmp_path / "root")
    out = ["--tee", "software", "--chip", tmp_path / "chip", "--out", tmp_path / "evidence.bin"]
    made = cloister("attest", "collect", *out)
    assert made.data["sample"] is True
    explain = ["attest", "explain", tmp_path / "evidence.bin", "--software-root", tmp_path / "root"]
    answer = cloister(*explain, "--report-data", made.data["report_data"])
    assert (answer.data["verdict"], answer.data["claims"]["measurement"]) == ("verified", "00" * 48)
    assert verdict_of(answer, "report_data") == "pass"
    assert cloister("attest", "collect", *out).code == 1  # it would be overwritten
    said = cloister("attest", "collect", *out, "--force", json=False).stdout
    assert "SAMPLE" in said
    assert "NO HARDWARE PROTECTION" in said


def test_evidence_is_never_made_up_where_hardware_was_asked_for(cloister: Cloister, tmp_path: Path) -> None:
    if Path("/sys/kernel/config/tsm/report").is_dir():
        pytest.skip("this machine has a TEE")
    answer = cloister("attest", "collect", "--tee", "hardware", "--out", tmp_path / "evidence.bin")
    assert (answer.code, answer.error["code"]) == (4, "TEE-901")
    assert not (tmp_path / "evidence.bin").exists()


def test_old_evidence_is_explained_at_its_own_time(attested: Attested, cloister: Cloister, now: datetime) -> None:
    path = attested.write(attested.evidence())
    early = f"{now.replace(year=now.year - 1):%Y-%m-%dT%H:%M:%SZ}"
    answer = cloister("attest", "explain", path, "--software-root", attested_root(attested), "--at", early)
    assert [check["reason"] for check in failed(answer).values()] == ["ATT-206"]
    assert cloister("attest", "explain", path, *attested.papers, "--at", early).error["code"] == "DOC-304"


@pytest.mark.parametrize("measurement", [WORKER, bytes(48)], ids=["admitted", "refused"])
def test_verify_tells_the_verdict_alone_with_the_same_exit_code(
    attested: Attested, cloister: Cloister, measurement: bytes
) -> None:
    path = attested.write(attested.evidence(measurement=measurement))
    explained, verified = (cloister("attest", verb, path, *attested.papers) for verb in ("explain", "verify"))
    assert verified.code == explained.code == (0 if measurement == WORKER else 4)
    assert verified.data["verdict"] == explained.data["verdict"]


@dataclass(frozen=True, slots=True)
class Signed:
    """A result that a verification service signed, and its public key in hex."""

    path: Path
    key: str


@pytest.fixture
def signed(attested: Attested, cloister: Cloister) -> Signed:
    evidence, out = attested.write(attested.evidence()), attested.consortium / "result.jwt"
    options = ["--report-data", REPORT_DATA.hex(), "--sign", attested.consortium.key("lab-b"), "--out", out]
    answer = cloister("attest", "verify", evidence, *attested.papers, *options)
    assert (answer.code, answer.data["verdict"]) == (0, "affirming")
    return Signed(out, answer.data["key"])


def test_a_signed_result_verifies_offline_and_says_what_was_appraised(signed: Signed, cloister: Cloister) -> None:
    answer = cloister("attest", "result", signed.path, "--key", signed.key, "--nonce", REPORT_DATA.hex())
    assert answer.code == 0
    assert answer.data["parts"]["cpu"]["measurement"] == WORKER.hex()
    assert answer.data["status"] == "contraindicated"  # software, whatever a development charter admits
    assert "assurance none" in cloister("attest", "result", signed.path, "--key", signed.key, json=False).stdout


def test_a_result_that_is_altered_foreign_ended_or_for_another_question_is_refused(
    signed: Signed, cloister: Cloister, tmp_path: Path
) -> None:
    token = signed.path.read_text()
    (tmp_path / "flipped.jwt").write_text(token[:60] + ("A" if token[60] != "A" else "B") + token[61:])
    other = "ab" * 32
    for path, key, more, code in (
        (tmp_path / "flipped.jwt", signed.key, [], "ATT-209"),
        (signed.path, other, [], "ATT-209"),
        (signed.path, signed.key, ["--at", "2999-01-01T00:00:00Z"], "ATT-205"),
        (signed.path, signed.key, ["--at", "2001-01-01T00:00:00Z"], "ATT-206"),
        (signed.path, signed.key, ["--nonce", bytes(64).hex()], "CHN-402"),
    ):
        answer = cloister("attest", "result", path, "--key", key, *more)
        assert (answer.code != 0, answer.error["code"]) == (True, code)


def test_nothing_is_signed_that_was_refused_or_is_bound_to_no_session(attested: Attested, cloister: Cloister) -> None:
    out, key = attested.consortium / "result.jwt", ["--sign", attested.consortium.key("lab-b")]
    good = attested.write(attested.evidence())
    for options in (attested.papers, [*attested.papers[:4], "--report-data", REPORT_DATA.hex()]):
        assert cloister("attest", "verify", good, *options, *key, "--out", out).error["code"] == "CLI-001"
    bad = attested.write(attested.evidence(measurement=bytes(48)))
    bound = [*attested.papers, "--report-data", REPORT_DATA.hex()]
    assert cloister("attest", "verify", bad, *bound, *key, "--out", out).code == 4
    assert cloister("attest", "verify", good, *bound, *key).error["code"] == "CLI-001"
    assert not out.exists()


@pytest.mark.parametrize("key", ["ab" * 31, "ab" * 33, "/dev/null"])
def test_a_key_that_is_none_is_told(signed: Signed, cloister: Cloister, key: str) -> None:
    assert cloister("attest", "result", signed.path, "--key", key).code != 0
