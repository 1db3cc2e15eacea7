"""``cloister collateral``, the store behind it, and the metric that watches it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from coordinator.host.config import HostConfig
from coordinator.host.metrics import HostMetrics
from softtee.certificates import revocation_list
from softtee.chip import Chip, SoftwareRoot
from tests.attestation.vectors import folder
from tests.console.conftest import Cloister
from trusted.attestation.collateral import EndorsementKind, recognise
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.policies.rules import write_time
from trusted.errors import AttestationError, Reason, WireError
from trusted.evidence.collateral_store import CollateralStore, endorsements_for

PHALA = ("tdx", "v4_uptodate_phala")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def a_list(root: SoftwareRoot, folder: Path, now: datetime, number: int = 1) -> Path:
    path = folder / f"genoa-{number}.crl"
    path.write_bytes(revocation_list(root.ark, now=now, number=number))
    return path


def test_an_imported_list_is_there_until_it_ends(
    cloister: Cloister, software_root: SoftwareRoot, tmp_path: Path, store: Path, now: datetime
) -> None:
    imported = cloister("collateral", "import", a_list(software_root, tmp_path, now), "--store", store)
    assert list(imported.data["imported"].values()) == [["ARK-Genoa"]]
    fresh = cloister("collateral", "status", "--store", store)
    assert (fresh.code, fresh.data["standing"]) == (0, "good")
    (line,) = fresh.data["endorsements"]
    assert line["platform"] == "AMD SEV-SNP, Genoa"
    end = datetime.fromisoformat(line["expires"])
    for before, code, standing in (
        (timedelta(days=7), 0, "good"),
        (timedelta(days=7, seconds=-1), 3, "ends soon"),
        (timedelta(0), 3, "ends soon"),
        (timedelta(seconds=-1), 4, "expired"),
    ):
        answer = cloister("collateral", "status", "--store", store, "--at", write_time(end - before))
        assert (answer.code, answer.data["standing"]) == (code, standing)


def test_status_warns_in_words(
    cloister: Cloister, software_root: SoftwareRoot, tmp_path: Path, store: Path, now: datetime
) -> None:
    cloister("collateral", "import", a_list(software_root, tmp_path, now), "--store", store)
    words = cloister("collateral", "status", "--store", store, "--warn-days", 366, json=False)
    assert words.code == 3
    assert "ENDS SOON: crl of ARK-Genoa" in words.stdout


def test_an_empty_store_is_not_a_good_one(cloister: Cloister, store: Path) -> None:
    assert cloister("collateral", "status", "--store", store).code == 4


def test_an_older_list_does_not_take_the_place_of_a_newer(
    cloister: Cloister, software_root: SoftwareRoot, tmp_path: Path, store: Path, now: datetime
) -> None:
    older, newer = (a_list(software_root, tmp_path, now, number) for number in (3, 4))
    for path in (older, newer, newer):
        assert cloister("collateral", "import", path, "--store", store).code == 0
    refused = cloister("collateral", "import", older, "--store", store)
    assert (refused.code, refused.error["code"]) == (4, Reason.COLLATERAL_ROLLBACK.code)
    assert CollateralStore(store).find(EndorsementKind.CRL, "ARK-Genoa") == newer.read_bytes()
    assert len(list(store.iterdir())) == 2  # what nobody needs any more is gone


def test_nothing_is_imported_when_one_file_is_unknown(
    cloister: Cloister, software_root: SoftwareRoot, tmp_path: Path, store: Path, now: datetime
) -> None:
    (tmp_path / "poem.txt").write_text("roses")
    refused = cloister(
        "collateral", "import", a_list(software_root, tmp_path, now), tmp_path / "poem.txt", "--store", store
    )
    assert refused.error["code"] == "CLI-001"
    assert "poem.txt" in refused.error["message"]
    assert not store.exists()


def test_a_chip_without_its_list_gets_it_from_the_store(chip: Chip, software_root: SoftwareRoot, store: Path) -> None:
    kept = CollateralStore(store)
    kept.add(chip.crl, recognise(chip.crl))
    evidence = chip.attest(report_data=bytes(64), measurement=bytes(48), host_data=bytes(32))
    assert endorsements_for(replace(evidence, crl=b""), kept) == evidence
    own = replace(evidence, crl=b"its own")
    assert endorsements_for(own, kept) == own
    assert endorsements_for(replace(evidence, crl=b"", certificates=(b"?",)), kept).crl == b""
    assert endorsements_for(replace(evidence, crl=b""), CollateralStore(store / "none")).crl == b""


def test_real_intel_collateral_is_found_by_the_platform_in_the_quote(cloister: Cloister, store: Path) -> None:
    vector = folder(*PHALA)
    assert cloister("collateral", "import", vector / "collateral.json", "--store", store).code == 0
    bare = Evidence(EvidenceFormat.TDX, (vector / "quote.bin").read_bytes(), ())
    whole = endorsements_for(bare, CollateralStore(store))
    assert whole.part("collateral") == (vector / "collateral.json").read_bytes()
    other = replace(bare, report=(folder("tdx", "v4_uptodate_dstack") / "quote.bin").read_bytes())
    assert endorsements_for(other, CollateralStore(store)) == other
    garbage = replace(bare, report=b"?")
    assert endorsements_for(garbage, CollateralStore(store)) == garbage
    answer = cloister("collateral", "status", "--store", store, "--at", "2025-07-13T00:00:00Z")
    platforms = {line["kind"]: line["platform"] for line in answer.data["endorsements"]}
    assert platforms["tcb-info"] == "Intel TDX, platforms with FMSPC b0c06f000000"
    assert platforms["crl"] == "Intel TDX and SGX"


def test_real_files_of_every_vendor_are_recognised() -> None:
    for parts, name, kind in (
        (("anchors", "amd"), "milan_ask_ark.pem", EndorsementKind.CERTIFICATE),
        (("snp", "genoa_v5_oak"), "cek.der", EndorsementKind.CERTIFICATE),
        (("anchors", "amd"), "crl_ark_milan_2022-05.der", EndorsementKind.CRL),
        (("nvidia", "hopper_535_with_rims"), "vbios_rim_match.swidtag", EndorsementKind.RIM),
    ):
        found = recognise((folder(*parts) / name).read_bytes())
        assert {item.kind for item in found} == {kind}
        assert all(item.expires is not None for item in found)


def test_a_key_set_is_recognised_and_has_no_end() -> None:
    (found,) = recognise(b'{"keys": [{"kid": "1", "kty": "RSA"}]}')
    assert (found.kind, found.expires) == (EndorsementKind.JWKS, None)
    for broken in (b'{"keys": []}', b'{"keys": [{}]}', b'{"keys": 1}', b"[]"):
        with pytest.raises(AttestationError):
            recognise(broken)


def test_a_file_that_is_too_large_is_not_parsed() -> None:
    with pytest.raises(WireError) as error:
        recognise(bytes((256 << 10) + 1))
    assert error.value.reason is Reason.TOO_LARGE


def test_a_file_that_was_changed_behind_the_index_is_refused(chip: Chip, store: Path) -> None:
    kept = CollateralStore(store)
    kept.add(chip.crl, recognise(chip.crl))
    (entry,) = kept.entries()
    (store / entry.file).write_bytes(chip.crl[:-1])
    with pytest.raises(WireError):
        kept.find(EndorsementKind.CRL, "ARK-Genoa")


@pytest.mark.parametrize(
    "index", [b"", b"{}", b'{"entries":[],"version":2}', b'{"entries":[{"file":"../x"}],"version":1}']
)
def test_an_index_that_is_none_is_refused(store: Path, index: bytes) -> None:
    store.mkdir()
    (store / "index.json").write_bytes(index)
    with pytest.raises(WireError):
        CollateralStore(store).entries()


def test_the_host_shows_when_the_store_ends(chip: Chip, store: Path) -> None:
    metrics = HostMetrics()
    metrics.watch_collateral(store)
    assert b"cloister_collateral_store_readable 0.0" in generate_latest(metrics.registry)
    kept = CollateralStore(store)
    kept.add(chip.crl, recognise(chip.crl))
    (entry,) = kept.entries()
    assert entry.endorsement.expires is not None
    shown = generate_latest(metrics.registry).decode()
    assert "cloister_collateral_store_readable 1.0" in shown
    (sample,) = [line for line in shown.splitlines() if line.startswith("cloister_collateral_expiry")]
    assert sample.startswith('cloister_collateral_expiry_timestamp_seconds{kind="crl",name="ARK-Genoa"}')
    assert float(sample.split()[-1]) == entry.endorsement.expires.timestamp()


def test_the_host_reads_where_the_store_is(tmp_path: Path) -> None:
    config = {"state": "s", "listen": "127.0.0.1:0", "door": f"unix:{tmp_path}/d", "charter": "c"}
    (tmp_path / "host.json").write_text(json.dumps(config | {"collateral_store": "collateral"}))
    assert HostConfig.load(tmp_path / "host.json").collateral_store == tmp_path / "collateral"
    (tmp_path / "host.json").write_text(json.dumps(config))
    assert HostConfig.load(tmp_path / "host.json").collateral_store is None
