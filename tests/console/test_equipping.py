"""A TEE goes to its peers with what the operator keeps for it, and with the devices that the policy asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from console.enclaves import equipped, tpm_choice
from softtee.chip import Chip
from tests.attestation.forge_gpu import GpuMaker
from tests.softtee.test_nvml import FakeNvml
from trusted.attestation.collateral import recognise
from trusted.attestation.device_policy import DeviceRule
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.policies.nvidia import strict_nvidia_policy
from trusted.attestation.policies.snp import development_snp_policy
from trusted.attestation.policies.tpm import strict_tpm_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.roots import Assurance
from trusted.errors import Reason, TeeError
from trusted.evidence.collateral_store import CollateralStore
from trusted.evidence.tpm import PcrChoice

PLAIN = AppraisalPolicy.of(snp=development_snp_policy([bytes(48)]))
GPUS = DeviceRule(1, 2, strict_nvidia_policy(assurance=Assurance.NONE))
TPM = DeviceRule(1, 1, strict_tpm_policy([b"\x11" * 32], selection=[9, 11], keys=[b"\x22" * 32], assurance="none"))
WITH_TPM = AppraisalPolicy(PLAIN.platforms, {EvidenceFormat.TPM: TPM})
WITH_GPUS = AppraisalPolicy(PLAIN.platforms, {EvidenceFormat.NVIDIA_GPU: GPUS})


@dataclass(frozen=True)
class Bare:
    """A TEE whose machine knows no revocation list."""

    chip: Chip

    def evidence(self, report_data: bytes) -> Evidence:
        made = self.chip.attest(report_data=report_data, measurement=bytes(48), host_data=bytes(32))
        return replace(made, crl=b"")

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        return ()


def no_driver() -> FakeNvml:
    raise TeeError(Reason.TEE_DEVICE_MISSING, "no NVML here")


def test_without_anything_kept_and_asked_for_a_tee_goes_as_it_is(chip: Chip, tmp_path: Path) -> None:
    tee = Bare(chip)
    assert equipped(tee, PLAIN, folder=tmp_path, nvml=no_driver) is tee


def test_the_operators_collateral_goes_along(chip: Chip, tmp_path: Path) -> None:
    CollateralStore(tmp_path / "collateral").add(chip.crl, recognise(chip.crl))
    tee = equipped(Bare(chip), PLAIN, folder=tmp_path, nvml=no_driver)
    assert tee.evidence(bytes(64)).crl == chip.crl
    assert tee.devices(bytes(64)) == ()


def test_the_gpus_that_a_policy_asks_for_go_along(chip: Chip, tmp_path: Path) -> None:
    CollateralStore(tmp_path / "collateral").add(chip.crl, recognise(chip.crl))
    maker = GpuMaker()
    tee = equipped(Bare(chip), WITH_GPUS, folder=tmp_path, nvml=lambda: FakeNvml((maker.make(), maker.make())))
    assert [device.format for device in tee.devices(bytes(64))] == [EvidenceFormat.NVIDIA_GPU] * 2
    assert tee.evidence(bytes(64)).crl == chip.crl


def test_gpus_that_are_asked_for_and_not_there_are_an_error(chip: Chip, tmp_path: Path) -> None:
    with pytest.raises(TeeError) as caught:
        equipped(Bare(chip), WITH_GPUS, folder=tmp_path, nvml=no_driver)
    assert caught.value.reason is Reason.TEE_DEVICE_MISSING


def test_a_tpm_that_is_asked_for_and_not_there_is_an_error(chip: Chip, tmp_path: Path) -> None:
    with pytest.raises(TeeError) as caught:
        equipped(Bare(chip), WITH_TPM, folder=tmp_path, nvml=no_driver, tpm=tmp_path / "tpmrm0")
    assert caught.value.reason is Reason.TEE_DEVICE_MISSING


def test_a_tpm_quotes_the_pcrs_of_the_policy_and_none_is_asked_where_none_is_named() -> None:
    assert tpm_choice(WITH_TPM) == PcrChoice(Bank.SHA256, (9, 11))
    assert tpm_choice(WITH_GPUS) is None
    alone = AppraisalPolicy.of(tpm=TPM.policy)
    assert tpm_choice(alone) is None
