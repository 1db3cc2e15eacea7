"""The software TEE's TPM, really started: swtpm beside a real enclave, and every neighbour that must fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from softtee import measured_boot, swtpm
from softtee.chip import Chip, SoftwareRoot
from softtee.chip_tpm import ChipTpm, remove_tpm, tpm_root
from softtee.enclave import Enclave
from softtee.launcher import Launch, launch
from softtee.surroundings import enclave_uid, own_mounts_possible, tpm_uid
from trusted.attestation.binding import host_data
from trusted.attestation.composite import Bound, EvidenceBundle, OpenTranscript, appraise_bundle
from trusted.attestation.device_policy import DeviceRule
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats import tcg_event_log
from trusted.attestation.policies.snp import development_snp_policy
from trusted.attestation.policies.tpm import TpmPolicy, strict_tpm_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.result import AttestationResult
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.errors import AttestationError, Reason, TeeError
from trusted.evidence.tpm import PcrChoice

pytestmark = pytest.mark.skipif(shutil.which("swtpm") is None, reason="no swtpm: install it (apt install swtpm)")

Run = Callable[..., tuple[Enclave, dict[str, Any]]]
CHOICE = PcrChoice(measured_boot.BANK, (measured_boot.PCR,))
NONCES = (b"\x11" * 32, b"\x22" * 32)
_ENDS_S = 5.0


@pytest.fixture
def tpm(start: Launch, software_root: SoftwareRoot, now: datetime) -> ChipTpm:
    """The TPM of the chip of ``start``."""
    return ChipTpm.make(start.chip_directory, software_root, now=now)


def roots(software_root: SoftwareRoot) -> tuple[TrustRoot, TrustRoot]:
    return software_root.trust_root, tpm_root(software_root.sha256)


def tpm_policy(measurement: bytes, *keys: bytes) -> TpmPolicy:
    digest = measured_boot.quoted_digest(measurement)
    return strict_tpm_policy([digest], selection=CHOICE.indexes, bank=CHOICE.bank, keys=keys, assurance=Assurance.NONE)


def role_policy(measurement: bytes, *keys: bytes) -> AppraisalPolicy:
    snp = AppraisalPolicy.of(snp=development_snp_policy([measurement])).platforms
    return AppraisalPolicy(snp, {EvidenceFormat.TPM: DeviceRule(1, 1, tpm_policy(measurement, *keys))})


def asked(*nonces: bytes, **first: Any) -> dict[str, Any]:
    """Options with which the probe gives a bundle for each nonce; ``first`` happens before the last one."""
    steps: list[dict[str, Any]] = [{"nonce": nonce.hex()} for nonce in nonces]
    steps[-1] |= first
    return {"bundles": steps}


def transcript(nonce: bytes) -> OpenTranscript:
    return OpenTranscript((b"worker", nonce))


def appraised(
    bundle: EvidenceBundle, policy: AppraisalPolicy, trusted: tuple[TrustRoot, ...], now: datetime, nonce: bytes
) -> AttestationResult:
    bound = Bound(transcript(nonce), host_data("worker", b"\x01" * 32, b"\x02" * 32))
    return appraise_bundle(bundle, policy, trusted, bound=bound, now=now)


def refused(*arguments: Any) -> Reason:
    with pytest.raises(AttestationError) as caught:
        appraised(*arguments)
    return caught.value.reason


def read(text: str) -> EvidenceBundle:
    return EvidenceBundle.decode(bytes.fromhex(text))


def processes_of(state: Path) -> set[int]:
    """Every swtpm on the folder ``state``."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if b"swtpm" in (entry / "cmdline").read_bytes() and (entry / "cwd").samefile(state):
                    found.add(int(entry.name))
    return found


def gone(state: Path) -> bool:
    deadline = time.monotonic() + _ENDS_S
    while processes_of(state) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not processes_of(state)


# What it proves.


def test_report_and_quote_prove_the_same_measurement_under_one_challenge(
    run: Run, tpm: ChipTpm, software_root: SoftwareRoot, now: datetime
) -> None:
    enclave, found = run(asked(*NONCES), tpm=CHOICE)
    assert enclave.wait(1) == 42
    measurement, trusted = enclave.measurement.value, roots(software_root)
    for nonce, text in zip(NONCES, found["bundles"], strict=True):
        result = appraised(read(text), role_policy(measurement, tpm.key_sha256), trusted, now, nonce)
        (device,) = result.devices
        assert (result.measurement, device.measurement) == (measurement, measured_boot.quoted_digest(measurement))
        assert (device.format, device.hardware_id) == (EvidenceFormat.TPM, tpm.key_sha256)
        assert device.assurance is Assurance.NONE
    assert gone(tpm.state)


def test_the_log_names_the_six_digests_and_explains_both_banks(run: Run, tpm: ChipTpm) -> None:
    enclave, found = run(asked(NONCES[0]), tpm=CHOICE)
    (quote,) = read(found["bundles"][0]).devices
    log = tcg_event_log.parse(quote.part("event-log"))
    (event,) = log.events
    assert event.data == enclave.measurement.parts.encode()
    assert event.digests[measured_boot.BANK.value] == enclave.measurement.value
    for bank in tcg_event_log.Bank:
        assert log.replay(bank)[measured_boot.PCR] == bank.digest(bytes(bank.size_bytes) + bank.digest(event.data))


def test_the_other_bank_is_measured_too(run: Run, tpm: ChipTpm, software_root: SoftwareRoot, now: datetime) -> None:
    """Else an enclave could fill it with whatever a careless charter asks for."""
    bank = tcg_event_log.Bank.SHA256
    enclave, found = run(asked(NONCES[0]), tpm=PcrChoice(bank, (measured_boot.PCR,)))
    value = bank.digest(bytes(32) + bank.digest(enclave.measurement.parts.encode()))
    policy = strict_tpm_policy(
        [bank.digest(value)], selection=(11,), bank=bank, keys=[tpm.key_sha256], assurance=Assurance.NONE
    )
    rule = {EvidenceFormat.TPM: DeviceRule(1, 1, policy)}
    whole = AppraisalPolicy(role_policy(enclave.measurement.value, tpm.key_sha256).platforms, rule)
    assert appraised(read(found["bundles"][0]), whole, roots(software_root), now, NONCES[0]).devices


def test_a_tpm_has_the_same_key_at_every_start_and_another_chip_another(
    tpm: ChipTpm, software_root: SoftwareRoot, now: datetime, tmp_path: Path
) -> None:
    software_root.issue_chip(now=now).save(tmp_path / "other")
    other = ChipTpm.make(tmp_path / "other", software_root, now=now)
    assert ChipTpm.load(tmp_path / "chip") == tpm
    assert other.key_sha256 != tpm.key_sha256
    for _ in range(2):
        with swtpm.running(tpm.state) as running:
            assert running.client.read_pcrs(measured_boot.BANK, (measured_boot.PCR,)) == (bytes(48),)
            running.client.extend_pcr(measured_boot.PCR, measured_boot.BANK, bytes(48))


# Neighbours that must fail.


def test_an_enclave_that_measures_something_more_after_its_start_is_refused(
    run: Run, tpm: ChipTpm, software_root: SoftwareRoot, now: datetime
) -> None:
    enclave, found = run(asked(*NONCES, extend="ab" * 48), tpm=CHOICE)
    before, after = (read(text) for text in found["bundles"])
    policy, trusted = role_policy(enclave.measurement.value, tpm.key_sha256), roots(software_root)
    assert appraised(before, policy, trusted, now, NONCES[0])
    assert refused(after, policy, trusted, now, NONCES[1]) is Reason.MEASUREMENT


def test_a_quote_of_another_measurement_is_refused(
    run: Run, tpm: ChipTpm, software_root: SoftwareRoot, now: datetime
) -> None:
    enclave, found = run(asked(NONCES[0]), tpm=CHOICE)
    measured, key = enclave.measurement.value, tpm.key_sha256
    other = {EvidenceFormat.TPM: DeviceRule(1, 1, tpm_policy(bytes(48), key))}
    policy = AppraisalPolicy(role_policy(measured, key).platforms, other)
    assert refused(read(found["bundles"][0]), policy, roots(software_root), now, NONCES[0]) is Reason.MEASUREMENT


def test_a_quote_for_another_nonce_is_refused(
    run: Run, tpm: ChipTpm, software_root: SoftwareRoot, now: datetime
) -> None:
    enclave, found = run(asked(*NONCES), tpm=CHOICE)
    first, second = (read(text) for text in found["bundles"])
    policy, trusted = role_policy(enclave.measurement.value, tpm.key_sha256), roots(software_root)
    assert refused(first, policy, trusted, now, NONCES[1]) is Reason.REPORT_DATA
    mixed = replace(second, devices=first.devices)
    assert refused(mixed, policy, trusted, now, NONCES[1]) is Reason.REPORT_DATA


def test_a_missing_or_doubled_tpm_is_refused(
    run: Run, tpm: ChipTpm, software_root: SoftwareRoot, now: datetime
) -> None:
    enclave, found = run(asked(NONCES[0]), tpm=CHOICE)
    whole = read(found["bundles"][0])
    policy, trusted = role_policy(enclave.measurement.value, tpm.key_sha256), roots(software_root)
    for devices in ((), whole.devices * 2):
        assert refused(replace(whole, devices=devices), policy, trusted, now, NONCES[0]) is Reason.DEVICE_COUNT
    _, bare = run(asked(NONCES[0]))
    assert refused(read(bare["bundles"][0]), policy, trusted, now, NONCES[0]) is Reason.DEVICE_COUNT


def test_quotes_swapped_between_two_enclaves_are_refused(
    run: Run, tpm: ChipTpm, software_root: SoftwareRoot, now: datetime, tmp_path: Path
) -> None:
    """Both run the same code and answer the same nonce, on two chips of which a charter knows both."""
    software_root.issue_chip(now=now).save(tmp_path / "other")
    other = ChipTpm.make(tmp_path / "other", software_root, now=now)
    enclave, found = run(asked(NONCES[0]), tpm=CHOICE)
    _, theirs = run(asked(NONCES[0]), tpm=CHOICE, chip_directory=tmp_path / "other", log=tmp_path / "other.log")
    mine, foreign = read(found["bundles"][0]), read(theirs["bundles"][0])
    policy = role_policy(enclave.measurement.value, tpm.key_sha256, other.key_sha256)
    for bundle in (mine, foreign):
        assert appraised(bundle, policy, roots(software_root), now, NONCES[0]).devices
    swapped = replace(mine, devices=foreign.devices)
    assert refused(swapped, policy, roots(software_root), now, NONCES[0]) is Reason.REPORT_DATA


def test_the_key_of_another_chip_is_refused(
    run: Run, tpm: ChipTpm, software_root: SoftwareRoot, now: datetime, tmp_path: Path
) -> None:
    """A chip that the charter does not know, one of another root, and a certificate of somebody else's key."""
    enclave, found = run(asked(NONCES[0]), tpm=CHOICE)
    whole, measured = read(found["bundles"][0]), enclave.measurement.value
    trusted = roots(software_root)
    unknown = role_policy(measured, b"\x33" * 32)
    assert refused(whole, unknown, trusted, now, NONCES[0]) is Reason.HARDWARE_NOT_ALLOWED
    elsewhere = (software_root.trust_root, tpm_root(b"\x44" * 32))
    policy = role_policy(measured, tpm.key_sha256)
    assert refused(whole, policy, elsewhere, now, NONCES[0]) is Reason.TRUST_ANCHOR
    software_root.issue_chip(now=now).save(tmp_path / "other")
    other = ChipTpm.make(tmp_path / "other", software_root, now=now)
    for name, der in zip(("ak.der", "root.der"), other.certificates, strict=True):
        (tmp_path / "chip" / "tpm" / name).write_bytes(der)
    _, lying = run(asked(NONCES[0]), tpm=CHOICE)
    allowed = role_policy(measured, tpm.key_sha256, other.key_sha256)
    assert refused(read(lying["bundles"][0]), allowed, trusted, now, NONCES[0]) is Reason.KEY_BINDING


def test_an_unasked_tpm_is_refused(run: Run, tpm: ChipTpm, software_root: SoftwareRoot, now: datetime) -> None:
    enclave, found = run(asked(NONCES[0]), tpm=CHOICE)
    plain = AppraisalPolicy(role_policy(enclave.measurement.value, tpm.key_sha256).platforms)
    assert refused(read(found["bundles"][0]), plain, roots(software_root), now, NONCES[0]) is Reason.DEVICE_COUNT


# Nothing pretends.


def test_a_tpm_that_dies_leaves_no_evidence(start: Launch, tpm: ChipTpm, tmp_path: Path) -> None:
    place = tmp_path / "seen"
    place.mkdir()
    os.chown(place, enclave_uid(), -1)
    options = {**start.options, **asked(*NONCES, **{"mark": str(place / "half"), "await": str(place / "go")})}
    enclave = launch(replace(start, options=options, tpm=CHOICE, writable=(place,)))
    try:
        (process,) = processes_of(tpm.state)
        deadline = time.monotonic() + 30
        while not (place / "half").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process, signal.SIGKILL)
        (place / "go").touch()
        assert enclave.wait(30) == 42
    finally:
        enclave.terminate()
    log = start.log.read_text()
    assert f"TEE-{Reason.TEE_REPORT.value}" in log
    assert log.count('"TEE-902') == 1  # the first bundle is whole


def test_a_chip_without_a_tpm_starts_no_enclave_that_needs_one(start: Launch) -> None:
    with pytest.raises(TeeError, match="cloister tee chip --tpm") as caught:
        launch(replace(start, tpm=CHOICE))
    assert caught.value.reason is Reason.TEE_DEVICE_MISSING
    assert not start.log.exists()


def test_without_swtpm_no_tpm_is_made_and_no_enclave_started(
    start: Launch, tpm: ChipTpm, software_root: SoftwareRoot, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for action in (
        lambda: launch(replace(start, tpm=CHOICE)),
        lambda: ChipTpm.make(start.chip_directory, software_root, now=now),
        swtpm.version,
    ):
        with pytest.raises(TeeError, match="apt install swtpm") as caught:
            action()
        assert caught.value.reason is Reason.TEE_DEVICE_MISSING
    assert ChipTpm.load(start.chip_directory) == tpm


def test_one_tpm_serves_one_enclave(start: Launch, tpm: ChipTpm) -> None:
    with swtpm.running(tpm.state), pytest.raises(TeeError, match="a chip of its own") as caught:
        launch(replace(start, tpm=CHOICE))
    assert caught.value.reason is Reason.LAUNCH_FAILED
    assert gone(tpm.state)


def test_a_tpm_ends_with_its_enclave(start: Launch, tpm: ChipTpm, tmp_path: Path) -> None:
    options = {**start.options, **asked(NONCES[0], **{"await": str(tmp_path / "never")})}
    enclave = launch(replace(start, options=options, tpm=CHOICE))
    assert len(processes_of(tpm.state)) == 1
    enclave.terminate()
    assert gone(tpm.state)


@pytest.mark.skipif(not own_mounts_possible(), reason="needs root and mount namespaces")
def test_a_tpm_is_neither_the_launchers_user_nor_the_enclaves(start: Launch, tpm: ChipTpm, tmp_path: Path) -> None:
    options = {**start.options, **asked(NONCES[0], **{"await": str(tmp_path / "never")})}
    enclave = launch(replace(start, options=options, tpm=CHOICE))
    try:
        (process,) = processes_of(tpm.state)
        status = Path(f"/proc/{process}/status").read_text()
        users = {line.split()[0]: set(line.split()[1:]) for line in status.splitlines() if line[:4] in ("Uid:", "Gid:")}
        assert users == {"Uid:": {str(tpm_uid())}, "Gid:": {str(tpm_uid())}}
        assert tpm_uid() not in (None, os.geteuid(), enclave_uid())
        assert "CapEff:\t0000000000000000" in status
    finally:
        enclave.terminate()


def test_the_tpms_files_are_its_owners_alone(tpm: ChipTpm) -> None:
    for path in (tpm.state.parent, tpm.state):
        assert path.stat().st_mode & 0o077 == 0
    remove_tpm(tpm.state.parent.parent)
    assert not tpm.state.exists()
    with pytest.raises(TeeError):
        ChipTpm.load(tpm.state.parent.parent)


def test_an_enclave_cannot_read_the_tpms_seeds(run: Run, tpm: ChipTpm) -> None:
    seeds = tpm.state / "tpm2-00.permall"
    assert seeds.exists()
    _, found = run({"read": [str(seeds), str(tpm.state.parent / "ak.der")]}, tpm=CHOICE)
    assert set(found["read"].values()) <= {"PermissionError", "FileNotFoundError"}


def test_a_chip_is_the_same_with_and_without_a_tpm(start: Launch, tpm: ChipTpm, chip: Chip) -> None:
    assert Chip.load(start.chip_directory).chip_id == chip.chip_id
