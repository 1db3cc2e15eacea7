"""Software TPMs on the command line: made with a chip, asked for in a charter, quoted, explained; never pretended."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from softtee import measured_boot
from softtee.chip import SoftwareRoot
from softtee.chip_tpm import PRODUCT
from tests.console.conftest import MEMBERS, Answer, Cloister, Consortium

pytestmark = pytest.mark.skipif(shutil.which("swtpm") is None, reason="no swtpm: install it (apt install swtpm)")

ASKED = "c7" * 64


@pytest.fixture
def folder(tmp_path: Path, software_root: SoftwareRoot) -> Path:
    """A folder with a software root."""
    software_root.save(tmp_path / "root")
    return tmp_path


@pytest.fixture
def chip(folder: Path, cloister: Cloister) -> Answer:
    """A chip with a TPM, made by the command."""
    return cloister("tee", "chip", "--root", folder / "root", "--tpm", "--out", folder / "chip")


def collected(cloister: Cloister, folder: Path) -> Path:
    out = folder / "quote.bin"
    options = ["--tee", "software", "--chip", folder / "chip", "--tpm", "--report-data", ASKED, "--out", out]
    assert cloister("attest", "collect", *options).data["sample"] is True
    return out


def checks(answer: Answer) -> dict[str, dict[str, Any]]:
    return {item["claim"]: item for item in answer.data["checks"]}


def test_a_chip_gets_a_tpm_only_where_it_is_asked_for(chip: Answer, folder: Path, cloister: Cloister) -> None:
    assert len(bytes.fromhex(chip.data["tpm_key"])) == 32
    plain = cloister("tee", "chip", "--root", folder / "root", "--out", folder / "plain")
    assert "tpm_key" not in plain.data
    assert not (folder / "plain" / "tpm").exists()
    cloister("tee", "chip", "--root", folder / "root", "--out", folder / "chip", "--force")
    assert not (folder / "chip" / "tpm").exists()


def test_a_relative_folder_is_as_good_as_any(folder: Path, cloister: Cloister, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert cloister("tee", "chip", "--root", "root", "--tpm", "--out", "near").code == 0


def test_without_swtpm_no_chip_is_made_and_the_remedy_is_told(
    folder: Path, cloister: Cloister, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    answer = cloister("tee", "chip", "--root", folder / "root", "--tpm", "--out", folder / "chip")
    assert answer.error["code"] == "TEE-901"
    assert "apt install swtpm" in answer.stdout
    assert not (folder / "chip").exists()
    finding = [item for item in cloister("doctor").data["checks"] if item["name"] == "software tpm"]
    assert "apt install swtpm" in finding[0]["found"]


def test_doctor_names_the_swtpm_that_is_there(cloister: Cloister) -> None:
    (finding,) = [item for item in cloister("doctor").data["checks"] if item["name"] == "software tpm"]
    assert finding["severity"] == "ok"
    assert finding["found"].startswith("swtpm 0.")


def charter_of(folder: Path, cloister: Cloister, consortium: Consortium, *keys: object) -> Answer:
    options = [*consortium.charter_options, "--profile", "development", "--software-root", folder / "root"]
    options += [option for key in keys for option in ("--tpm-key", key)]
    return cloister("charter", "new", *options, "--out", folder / "with-tpms.json", "--force")


def test_a_charter_asks_for_the_tpms_whose_keys_it_names(
    chip: Answer, folder: Path, cloister: Cloister, consortium: Consortium
) -> None:
    """By the chip's folder or by the key, and with the very quote that follows from the measurement."""
    key = chip.data["tpm_key"]
    by_folder, by_key = (
        charter_of(folder, cloister, consortium, given).data["charter"] for given in (folder / "chip", key)
    )
    assert by_folder["worker"] == by_key["worker"]
    rule = by_key["worker"]["devices"]["tpm"]
    assert (rule["count"], rule["keys"]) == ({"min": 1, "max": 1}, [key])
    assert rule["measurements"][0]["value"] == measured_boot.quoted_digest(b"\xa5" * 48).hex()
    assert PRODUCT in {root["product"] for root in by_key["roots"] if root["format"] == "tpm"}
    said = cloister("charter", "explain", folder / "with-tpms.json", json=False).stdout
    assert "The aggregator must hold 1 tpm beside its TEE" in said
    without = charter_of(folder, cloister, consortium).data["charter"]
    assert "devices" not in without["worker"]
    assert {root["format"] for root in without["roots"]} == {"snp"}


def test_tpm_keys_that_mean_nothing_are_refused(
    chip: Answer, folder: Path, cloister: Cloister, consortium: Consortium
) -> None:
    cloister("tee", "chip", "--root", folder / "root", "--out", folder / "plain")
    for given, code in (("ab" * 31, "CLI-001"), (folder / "nowhere", "CLI-001"), (folder / "plain", "TEE-901")):
        assert charter_of(folder, cloister, consortium, given).error["code"] == code
    hardware = [*consortium.charter_options, "--vendor-root", "Genoa", "--tpm-key", "ab" * 32]
    assert "--as-device" in cloister("charter", "new", *hardware, "--out", folder / "x").error["hint"]
    template = folder / "policy.json"
    template.write_text(cloister("charter", "template", "snp", json=False).stdout)
    options = [*consortium.charter_options[:-4], "--software-root", folder / "root", "--tpm-key", "ab" * 32]
    policies = ["--aggregator-policy", template, "--worker-policy", template, "--out", folder / "x"]
    assert "--as-device" in cloister("charter", "new", *options, *policies).error["hint"]


def test_a_quote_of_nothing_is_a_sample_that_verifies_and_no_charter_admits(
    chip: Answer, folder: Path, cloister: Cloister, consortium: Consortium, now: datetime
) -> None:
    quote = collected(cloister, folder)
    alone = cloister("attest", "explain", quote, "--software-root", folder / "root", "--report-data", ASKED)
    assert (alone.data["verdict"], alone.data["assurance"]) == ("verified", "none")
    assert alone.data["claims"]["quote_pcrs"] == [{"bank": "sha384", "index": 11, "value": "00" * 48}]
    assert alone.data["claims"]["key_sha256"] == chip.data["tpm_key"]
    other = cloister("attest", "explain", quote, "--software-root", folder / "root", "--report-data", "c8" * 64)
    assert other.data["verdict"] == "refused"
    charter_of(folder, cloister, consortium, folder / "chip")
    for member in MEMBERS[:2]:
        key = consortium.key(member)
        assert cloister("charter", "sign", folder / "with-tpms.json", "--key", key, "--yes").code == 0
    papers = ["--charter", folder / "with-tpms.json", "--role", "worker", "--report-data", ASKED]
    judged = cloister("attest", "explain", quote, *papers)
    assert judged.data["verdict"] == "refused"
    failed = {claim for claim, item in checks(judged).items() if item["verdict"] == "fail"}
    assert failed == {"measurements", "event_log"}


def test_a_chip_without_a_tpm_gives_no_quote(folder: Path, cloister: Cloister) -> None:
    cloister("tee", "chip", "--root", folder / "root", "--out", folder / "chip")
    options = ["--tee", "software", "--chip", folder / "chip", "--tpm", "--out", folder / "quote.bin"]
    assert cloister("attest", "collect", *options).error["code"] == "TEE-901"
    assert not (folder / "quote.bin").exists()
