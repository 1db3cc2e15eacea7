"""Evidence out of an Azure vTPM: a real swtpm, with the paravisor's part played in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from softtee.chip import Chip, SoftwareRoot
from tests.attestation.azure_vm import CONFIGURATION, AzureVm, azure_root
from tests.attestation.conftest import MEASUREMENT, REPORT_DATA
from tests.attestation.quotes import sized, u16, u32
from tests.attestation.swtpm import software_tpm, software_tpm_transport
from trusted.attestation.appraise import Expected, appraise, verify
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import Scheme, parse_public
from trusted.attestation.policies.azure_vtpm import AzureVtpmPolicy, strict_azure_vtpm_policy
from trusted.errors import Reason, TeeError, WireError
from trusted.evidence.azure_vtpm import (
    AK_HANDLE,
    REPORT_INDEX,
    USER_DATA_INDEX,
    AzureVtpm,
    Clock,
    Endorsements,
)
from trusted.evidence.tpm import PcrChoice
from trusted.evidence.tpm_client import TpmClient
from trusted.evidence.tpm_transport import TpmTransport

CHOICE = PcrChoice(Bank.SHA256, (4, 9, 11))
_NV_READ, _NV_READ_PUBLIC, _NV_WRITE = 0x14E, 0x169, 0x137


@dataclass
class Paravisor:
    """Between the guest and the TPM: it keeps the report's index (too large for swtpm), and answers all else from the
    TPM. The report follows the user data after ``delay`` reads of it."""

    tpm: TpmTransport
    vm: AzureVm
    delay: int = 2
    user_data: bytes = bytes(64)
    report: bytes = b""
    reads: int = field(default=0)

    def exchange(self, command: bytes) -> bytes:
        code = int.from_bytes(command[6:10], "big")
        index = REPORT_INDEX.to_bytes(4, "big")
        if code == _NV_READ_PUBLIC and command[10:14] == index:
            self._tick()
            attributes = 1 << 29 | 1 << 17
            public = index + u16(0x0B) + u32(attributes) + sized(b"") + u16(2600)
            return _answer(sized(public) + sized(bytes(34)))
        if code == _NV_READ and command[14:18] == index:
            size, offset = int.from_bytes(command[-4:-2], "big"), int.from_bytes(command[-2:], "big")
            parameters = sized(self.report[offset : offset + size])
            return _answer(u32(len(parameters)) + parameters + bytes(5))
        if code == _NV_WRITE and command[14:18] == USER_DATA_INDEX.to_bytes(4, "big"):
            self.user_data, self.reads = command[-66:-2], 0
        return self.tpm.exchange(command)

    def _tick(self) -> None:
        self.reads += 1
        if self.reads > self.delay or not self.report:
            self.report = self.vm.report(self.user_data)


def _answer(body: bytes) -> bytes:
    return u16(0x8001) + u32(10 + len(body), 0) + body


@dataclass
class Waiting:
    """A clock that moves when somebody waits."""

    time_s: float = 0.0

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.time_s, self.wait)

    def wait(self, seconds: float) -> None:
        self.time_s += seconds


@pytest.fixture(scope="module")
def paravisor(tmp_path_factory: pytest.TempPathFactory, chip: Chip) -> Iterator[Paravisor]:
    """A machine with its key in place."""
    with software_tpm_transport(tmp_path_factory.mktemp("vtpm")) as transport:
        direct = TpmClient(transport)
        ak = direct.create_ak(Scheme.RSASSA_SHA256)
        direct.make_persistent(ak.handle, AK_HANDLE)
        direct.flush(ak.handle)
        modulus = parse_public(ak.public).modulus
        vm = AzureVm(chip, _PublicOnly(rsa.RSAPublicNumbers(65537, modulus).public_key()))  # type: ignore[arg-type]
        yield Paravisor(transport, vm)


@dataclass(frozen=True)
class _PublicOnly:
    """The private half is the TPM's."""

    key: rsa.RSAPublicKey

    def public_key(self) -> rsa.RSAPublicKey:
        return self.key


def endorsements(chip: Chip) -> Endorsements:
    pattern = chip.attest(report_data=bytes(64), measurement=MEASUREMENT, host_data=bytes(32))
    return Endorsements(pattern.certificates, pattern.crl)


def test_evidence_is_fresh_down_to_the_hardware_report(
    paravisor: Paravisor, chip: Chip, software_root: SoftwareRoot, now: datetime
) -> None:
    waiting = Waiting()
    provider = AzureVtpm(TpmClient(paravisor), CHOICE, endorsements(chip), clock=waiting.clock)
    for report_data in (REPORT_DATA, b"\x44" * 64):
        verified = verify(provider.evidence(report_data), [azure_root(software_root)], now)
        assert verified.claims.fresh_report
        assert verified.claims.configuration.vm_id == CONFIGURATION["vmUniqueId"]
        strict = strict_azure_vtpm_policy(
            [verified.claims.measurement], selection=CHOICE.indexes, paravisors=[MEASUREMENT]
        ).to_json()
        assert isinstance(strict["snp"], dict)
        below = {**strict["snp"], "assurance": "none"}
        policy = AzureVtpmPolicy.from_json(
            {**strict, "snp": below, "assurance": "none", "event_log": {"skip": "no firmware ran"}}
        )
        appraise(verified, policy, Expected(report_data, bytes(32)), now)
    assert waiting.time_s >= 2


def test_a_report_that_never_becomes_fresh_is_an_error(paravisor: Paravisor, chip: Chip) -> None:
    waiting = Waiting()
    stuck = replace(paravisor, delay=10**6, report=paravisor.vm.report(b"\x01" * 64))
    provider = AzureVtpm(TpmClient(stuck), CHOICE, endorsements(chip), clock=waiting.clock)
    with pytest.raises(TeeError, match="after 30 s") as error:
        provider.evidence(REPORT_DATA)
    assert error.value.reason is Reason.TEE_REPORT
    assert 30 <= waiting.time_s < 32


def test_a_report_that_is_none_is_an_error(paravisor: Paravisor, chip: Chip) -> None:
    broken = replace(paravisor, delay=10**6, report=bytes(2600))
    with pytest.raises(TeeError) as error:
        AzureVtpm(TpmClient(broken), CHOICE, endorsements(chip)).evidence(REPORT_DATA)
    assert error.value.reason is Reason.TEE_REPORT


def test_another_machines_tpm_is_no_azure_vtpm(tmp_path: Path, chip: Chip) -> None:
    with software_tpm(tmp_path) as plain, pytest.raises(TeeError) as error:
        AzureVtpm(plain, CHOICE, endorsements(chip)).evidence(REPORT_DATA)
    assert error.value.reason is Reason.TEE_DEVICE_MISSING


def test_report_data_of_another_length_is_refused(paravisor: Paravisor, chip: Chip) -> None:
    with pytest.raises(WireError):
        AzureVtpm(TpmClient(paravisor), CHOICE, endorsements(chip)).evidence(bytes(32))
