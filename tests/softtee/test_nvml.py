"""GPU evidence through NVML: a fake library that writes the same structures, and everything that it may answer."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.attestation.forge_gpu import Gpu, GpuMaker
from tests.world import NOW
from trusted.attestation.appraise import verify
from trusted.attestation.binding import short_nonce
from trusted.attestation.device_policy import MAX_DEVICES
from trusted.errors import Reason, TeeError, WireError
from trusted.evidence import nvidia
from trusted.evidence.devices import WithDevices
from trusted.evidence.nvidia import Endorsements, NvidiaGpus

CHALLENGE = b"\x44" * 64
MAKER = GpuMaker()


@pytest.fixture(scope="module")
def two() -> tuple[Gpu, ...]:
    return MAKER.make(), MAKER.make()


@dataclass
class FakeNvml:
    """A driver with ``gpus``. It fills the caller's structures through pointers, as the library does."""

    gpus: tuple[Gpu, ...]
    cc_feature: int = 1
    dev_tools: int = 0
    multi_gpu: int = 0
    fails: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    report: Any = None  # from (gpu, nonce) to a report, in place of the gpu's own
    chain_size: int | None = None

    def __call__(self, function: str, *arguments: Any) -> int:
        self.calls.append(function)
        if function in self.fails:
            return self.fails[function]
        handler = getattr(self, function, None)
        if handler is not None:
            handler(*(getattr(argument, "_obj", argument) for argument in arguments))
        return 0

    def nvmlSystemGetConfComputeSettings(self, state: Any) -> None:
        assert state.version == 0x1000014
        state.environment, state.ccFeature, state.devToolsMode = 2, self.cc_feature, self.dev_tools
        state.multiGpuMode = self.multi_gpu

    def nvmlDeviceGetCount_v2(self, count: Any) -> None:
        count.value = len(self.gpus)

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, device: Any) -> None:
        device.value = index.value + 1

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, device: Any, report: Any) -> None:
        gpu = self.gpus[device.value - 1]
        content = (self.report or (lambda gpu, nonce: gpu.report(nonce)))(gpu, bytes(report.nonce))
        report.attestationReportSize = len(content)
        ctypes.memmove(report.attestationReport, content, min(len(content), ctypes.sizeof(report.attestationReport)))

    def nvmlDeviceGetConfComputeGpuCertificate(self, device: Any, certificates: Any) -> None:
        chain = [signer.certificate.public_bytes(Encoding.PEM) for signer in self.gpus[device.value - 1].chain]
        pem = b"".join(chain) + b"\0"
        certificates.attestationCertChainSize = len(pem) if self.chain_size is None else self.chain_size
        ctypes.memmove(certificates.attestationCertChain, pem, len(pem))


def refused(nvml: FakeNvml, challenge: bytes = CHALLENGE) -> Reason:
    with pytest.raises(TeeError) as error:
        NvidiaGpus(nvml).devices(challenge)
    return error.value.reason


def test_every_gpu_answers_the_challenge_and_holds(two: tuple[Gpu, ...]) -> None:
    nvml = FakeNvml(two)
    found = NvidiaGpus(nvml).devices(CHALLENGE)
    claims = [verify(evidence, MAKER.roots, NOW).claims for evidence in found]
    assert [claim.report_data for claim in claims] == [short_nonce(CHALLENGE)] * 2
    assert len({claim.hardware_id for claim in claims}) == 2
    assert (nvml.calls[0], nvml.calls[-1]) == ("nvmlInit_v2", "nvmlShutdown")


def test_endorsements_travel_with_every_report(two: tuple[Gpu, ...], tmp_path: Path) -> None:
    for name, content in two[0].fully_vouched(NOW).parts:
        if name.startswith("rim"):
            (tmp_path / name).write_bytes(content)
    (tmp_path / "something-else").write_bytes(b"x")
    nvml = FakeNvml(tuple(replace(gpu, measurements=two[0].measurements) for gpu in two))
    found = NvidiaGpus(nvml, lambda: Endorsements.from_folder(tmp_path)).devices(CHALLENGE)
    assert [[name for name, _ in evidence.parts] for evidence in found] == [["rim-driver", "rim-vbios"]] * 2
    for evidence in found:
        verify(evidence, MAKER.roots, NOW)


def test_a_machine_without_the_library_says_so() -> None:
    with pytest.raises(TeeError) as error:
        nvidia.load("libnvidia-ml-that-is-not-there.so.1")
    assert error.value.reason is Reason.TEE_DEVICE_MISSING
    assert "driver" in error.value.detail


def test_a_machine_without_a_gpu_or_with_too_many_gives_nothing(two: tuple[Gpu, ...]) -> None:
    assert refused(FakeNvml(())) is Reason.TEE_DEVICE_MISSING
    assert refused(FakeNvml(two[:1] * (MAX_DEVICES + 1))) is Reason.TEE_REPORT


@pytest.mark.parametrize(("cc_feature", "dev_tools"), [(0, 0), (0, 1), (1, 1)])
def test_a_gpu_that_is_not_confidential_or_in_developer_mode_gives_nothing(
    two: tuple[Gpu, ...], cc_feature: int, dev_tools: int
) -> None:
    nvml = FakeNvml(two, cc_feature=cc_feature, dev_tools=dev_tools)
    assert refused(nvml) is Reason.TEE_REPORT
    assert "nvmlDeviceGetConfComputeGpuAttestationReport" not in nvml.calls
    assert nvml.calls[-1] == "nvmlShutdown"


def test_protected_pcie_is_a_confidential_mode(two: tuple[Gpu, ...]) -> None:
    assert len(NvidiaGpus(FakeNvml(two, cc_feature=0, multi_gpu=1)).devices(CHALLENGE)) == 2
    assert refused(FakeNvml(two, cc_feature=0, multi_gpu=1, dev_tools=1)) is Reason.TEE_REPORT


@pytest.mark.parametrize(
    "function",
    [
        "nvmlInit_v2",
        "nvmlSystemGetConfComputeSettings",
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetConfComputeGpuAttestationReport",
        "nvmlDeviceGetConfComputeGpuCertificate",
    ],
)
def test_any_call_that_fails_fails_the_whole(two: tuple[Gpu, ...], function: str) -> None:
    nvml = FakeNvml(two, fails={function: 3})
    with pytest.raises(TeeError) as error:
        NvidiaGpus(nvml).devices(CHALLENGE)
    assert function in error.value.detail
    assert "3" in error.value.detail


def test_a_report_of_another_nonce_or_of_no_form_is_not_passed_on(two: tuple[Gpu, ...]) -> None:
    for report in (
        lambda gpu, nonce: gpu.report(bytes(32)),
        lambda gpu, nonce: gpu.report(nonce)[:-1],
        lambda gpu, nonce: b"\0" * 4000,
        lambda gpu, nonce: b"",
        lambda gpu, nonce: b"\0" * 0x2001,
    ):
        assert refused(FakeNvml(two, report=report)) is Reason.TEE_REPORT


@pytest.mark.parametrize("size", [0, 10, 600, 0x1401, 1 << 30])
def test_a_chain_that_does_not_read_is_not_passed_on(two: tuple[Gpu, ...], size: int) -> None:
    assert refused(FakeNvml(two, chain_size=size)) is Reason.TEE_REPORT


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_the_challenge_is_64_bytes(two: tuple[Gpu, ...], size: int) -> None:
    nvml = FakeNvml(two)
    with pytest.raises(WireError):
        NvidiaGpus(nvml).devices(bytes(size))
    assert nvml.calls == []


def test_the_structures_are_as_large_as_the_librarys() -> None:
    """NVML_GPU_CERT_CHAIN_SIZE, NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE and the two sizes of reports."""
    assert ctypes.sizeof(nvidia._Report) == 12 + 32 + 0x2000 + 0x1000
    assert ctypes.sizeof(nvidia._Certificates) == 8 + 0x1000 + 0x1400
    assert ctypes.sizeof(nvidia._Settings) == 20


def test_a_tee_with_its_gpus_is_one_source(two: tuple[Gpu, ...]) -> None:
    class Tee:
        def evidence(self, report_data: bytes) -> Any:
            return report_data

        def devices(self, challenge: bytes) -> Any:
            return ("what the TEE holds already",)

    machine = WithDevices(Tee(), NvidiaGpus(FakeNvml(two)))
    assert machine.evidence(b"x") == b"x"  # type: ignore[comparison-overlap]
    held, *gpus = machine.devices(CHALLENGE)
    assert held == "what the TEE holds already"  # type: ignore[comparison-overlap]
    assert len(gpus) == 2


def test_the_chain_is_passed_on_as_it_is(two: tuple[Gpu, ...]) -> None:
    (one, _) = NvidiaGpus(FakeNvml(two)).devices(CHALLENGE)
    assert [x509.load_der_x509_certificate(der) for der in one.certificates] == [
        signer.certificate for signer in two[0].chain
    ]
