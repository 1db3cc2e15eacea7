"""The vectors' loaders cope with what no sample has shown yet: sets of GPUs, event logs, other names of files."""

from __future__ import annotations

import base64
import json
import struct
from datetime import UTC, datetime
from hashlib import sha384
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from softtee.chip import Chip
from tests.attestation import from_vector
from tests.attestation.forge_gpu import Gpu, GpuMaker
from tests.attestation.from_vector import event_log, files, snp
from tests.attestation.test_all_vectors import Vector, differences, reasons_for, verify_all
from tests.attestation.test_ccel import LOG
from trusted.attestation.formats import ccel
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify.p384_chain import spki
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

NOW = datetime(2026, 11, 1, tzinfo=UTC)
NONCE = bytes(range(32))
DIGEST = sha384(b"application").digest()


@pytest.fixture(scope="module")
def gpus() -> list[Gpu]:
    maker = GpuMaker()
    return [maker.make() for _ in range(11)]


def pem(gpu: Gpu) -> bytes:
    return b"".join(signer.certificate.public_bytes(Encoding.PEM) for signer in gpu.chain)


def written(folder: Path, gpus: list[Gpu]) -> Path:
    """One file for each GPU's report, and one for its chain."""
    for place, gpu in enumerate(gpus):
        (folder / f"report_{place}.bin").write_bytes(gpu.report(NONCE))
        (folder / f"cert_chain_{place}.pem").write_bytes(pem(gpu))
    return folder


def under(loaded: from_vector.Loaded, roots: tuple[TrustRoot, ...]) -> from_vector.Loaded:
    return from_vector.Loaded(loaded.evidence, roots, loaded.policy, loaded.expected_claims, more=loaded.more)


def test_each_gpu_of_a_set_is_verified_with_its_own_chain(gpus: list[Gpu], tmp_path: Path) -> None:
    """The eleventh is not paired with the third's chain: numbers in names count as numbers."""
    loaded = from_vector.load("nvidia", written(tmp_path, gpus), {})
    verified = verify_all(under(loaded, gpus[0].maker.roots), NOW)
    assert [item.claims.hardware_id for item in verified] == [sha256(spki(gpu.device.certificate)) for gpu in gpus]


def test_a_set_with_one_gpu_twice_is_refused(gpus: list[Gpu], tmp_path: Path) -> None:
    loaded = from_vector.load("gpu_set", written(tmp_path, [gpus[0], gpus[1], gpus[0]]), {})
    with pytest.raises(AttestationError) as error:
        verify_all(under(loaded, gpus[0].maker.roots), NOW)
    assert error.value.reason is Reason.DEVICE_DUPLICATE
    assert reasons_for("the second GPU is a duplicate of the first") == {Reason.DEVICE_DUPLICATE}


def test_the_list_that_nvidias_tools_write_is_a_set(gpus: list[Gpu], tmp_path: Path) -> None:
    encoded = [
        {"evidence": base64.b64encode(gpu.report(NONCE)).decode(), "certificate": base64.b64encode(pem(gpu)).decode()}
        for gpu in gpus[:2]
    ]
    (tmp_path / "evidence.json").write_text(json.dumps(encoded))
    loaded = from_vector.load("nvidia", tmp_path, {"expected": {"gpus": [{}, {}]}})
    assert len(verify_all(under(loaded, gpus[0].maker.roots), NOW)) == 2
    assert loaded.parsed_claims is not None
    found = loaded.parsed_claims()
    assert (found["nonce"], found["count"], len(found["gpus"])) == (NONCE.hex(), 2, 2)


def test_a_claim_that_no_loader_knows_is_a_difference() -> None:
    assert list(differences({"new": 1}, {"old": 1})) == [".new: not found"]
    assert list(differences({"gpus": [{"new": 1}]}, {"gpus": [{"old": 1}]})) == [".gpus[0].new: not found"]
    assert list(differences([1, 2], [1]))
    assert not list(differences({"gpus": [{"old": 1}]}, {"gpus": [{"old": 1, "more": 2}]}))


def test_a_format_that_nobody_can_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError):
        from_vector.load("riscv_cove", tmp_path, {})
    assert not Vector("CCEL", "log").is_evidence
    assert Vector("tdx", "quote").is_evidence


def test_an_event_log_is_known_by_what_it_holds(tmp_path: Path) -> None:
    """The ACPI table that points to the log comes along with it, and is none."""
    (tmp_path / "ccel_table.dat").write_bytes(b"CCEL" + bytes(52))
    (tmp_path / "ccel_data.dat").write_bytes(LOG + b"\xff" * 64)
    (found,) = files.event_logs(tmp_path).values()
    assert found == LOG + b"\xff" * 64
    facts = event_log.found_in(tmp_path)
    assert facts["rtmr"] == [value.hex() for value in ccel.replay(ccel.parse(LOG)).rtmrs]
    assert facts["events"] == 4
    assert facts["ccel_data.dat"]["used_bytes"] == len(LOG)
    event_log.judge(tmp_path, {}, NOW)


def test_an_event_log_that_does_not_parse_is_refused(tmp_path: Path) -> None:
    (tmp_path / "good.bin").write_bytes(LOG)
    (tmp_path / "cut.bin").write_bytes(LOG[:-1])
    event_log.judge(tmp_path, {"what": "good.bin"}, NOW)
    with pytest.raises(AttestationError):
        event_log.judge(tmp_path, {"what": "cut.bin"}, NOW)
    with pytest.raises(AttestationError):
        event_log.judge(tmp_path, {}, NOW)


def test_a_guest_agents_log_replays_like_a_binary_one(tmp_path: Path) -> None:
    events = [{"imr": 3, "event_type": 0x08000001, "digest": DIGEST.hex(), "event": "app-id", "event_payload": ""}]
    (tmp_path / "event_log.json").write_text(json.dumps(events))
    (log,) = files.event_logs(tmp_path).values()
    assert ccel.replay(ccel.parse(log)).rtmrs[3] == ccel.extend(bytes(48), DIGEST)
    assert struct.unpack_from("<I", log)[0] == 1


def test_certificates_are_told_apart_by_their_names(chip: Chip, tmp_path: Path) -> None:
    cek, ask, ark = chip.evidence(bytes(1184)).certificates
    (tmp_path / "a.der").write_bytes(ark)
    (tmp_path / "b.der").write_bytes(cek)
    (tmp_path / "c.cer").write_bytes(ask)
    assert snp.certificate_chain(tmp_path) == (cek, ask, ark)
