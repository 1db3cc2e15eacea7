"""GPU evidence through NVIDIA's management library (NVML), where it is present. Trust zone: every TEE.

The library and the driver below it are part of what the TEE measures. They can refuse evidence and cannot forge it:
peers verify report and chain. What only this code can see is asked here, before any report: the confidential mode
is on for the whole machine, in no developer mode, and every GPU that the machine has gives its report. Source: the
structures of NVML as ``nvidia-ml-py`` 13.615 spells them; the calls were never made on a machine in confidential mode.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trusted.attestation.binding import short_nonce
from trusted.attestation.device_policy import MAX_DEVICES
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import spdm
from trusted.errors import ProtocolError, Reason, TeeError

LIBRARY = "libnvidia-ml.so.1"
_SUCCESS = 0
_NONCE_BYTES = 32
_REPORT_BYTES = 0x2000
_CEC_REPORT_BYTES = 0x1000
_CHAIN_BYTES = 0x1400
_MAX_CHAIN = 8
_SETTINGS_VERSION = 1 << 24 | 20  # version 1 of a structure of 20 bytes


class NvmlCall(Protocol):
    """NVML by its functions' names: 0 is success, as in C. Arguments are ctypes values, filled in by reference."""

    def __call__(self, function: str, *arguments: object) -> int: ...


class _Settings(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint),
        ("environment", ctypes.c_uint),
        ("ccFeature", ctypes.c_uint),
        ("devToolsMode", ctypes.c_uint),
        ("multiGpuMode", ctypes.c_uint),
    )


class _Report(ctypes.Structure):
    _fields_ = (
        ("isCecAttestationReportPresent", ctypes.c_uint),
        ("attestationReportSize", ctypes.c_uint),
        ("cecAttestationReportSize", ctypes.c_uint),
        ("nonce", ctypes.c_ubyte * _NONCE_BYTES),
        ("attestationReport", ctypes.c_ubyte * _REPORT_BYTES),
        ("cecAttestationReport", ctypes.c_ubyte * _CEC_REPORT_BYTES),
    )


class _Certificates(ctypes.Structure):
    _fields_ = (
        ("certChainSize", ctypes.c_uint),
        ("attestationCertChainSize", ctypes.c_uint),
        ("certChain", ctypes.c_ubyte * 0x1000),
        ("attestationCertChain", ctypes.c_ubyte * _CHAIN_BYTES),
    )


def load(library: str = LIBRARY) -> NvmlCall:
    """NVML of this machine.

    Raises:
        TeeError: TEE_DEVICE_MISSING, and what was looked for.
    """
    try:
        loaded = ctypes.CDLL(library)
    except OSError:
        raise TeeError(
            Reason.TEE_DEVICE_MISSING,
            f"no {library}: no NVIDIA driver here; pass the GPU through to this confidential VM and install the driver",
        ) from None

    def call(function: str, *arguments: object) -> int:
        return int(getattr(loaded, function)(*arguments))

    return call


@dataclass(frozen=True, slots=True)
class Endorsements:
    """What the host cached for the GPUs: reference values and OCSP answers, by the part's name. Peers verify them."""

    parts: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def from_folder(cls, folder: Path) -> Endorsements:
        """The files ``rim-driver``, ``rim-vbios`` and ``ocsp`` below ``folder``, those that are there."""
        names = ("ocsp", "rim-driver", "rim-vbios")
        return cls({name: (folder / name).read_bytes() for name in names if (folder / name).is_file()})


class NvidiaGpus:
    """Every GPU of this machine, each time it is asked. Thread-safe: NVML answers one caller at a time."""

    def __init__(self, nvml: NvmlCall, endorsements: Callable[[], Endorsements] = Endorsements) -> None:
        """``endorsements`` is asked each time, so that fresh ones are used as they come."""
        self._nvml = nvml
        self._endorsements = endorsements
        self._one_at_a_time = threading.Lock()

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """Fresh evidence of every GPU over ``challenge``, exactly 64 bytes, in the driver's order.

        Raises:
            WireError: ``challenge`` has another length.
            TeeError: TEE_DEVICE_MISSING, no GPU; TEE_REPORT, no confidential mode, a developer mode, or a GPU that
                gives no report.
        """
        nonce = short_nonce(challenge)
        parts = tuple(sorted(self._endorsements().parts.items()))
        with self._one_at_a_time:
            self._call("nvmlInit_v2")
            try:
                self._require_confidential()
                return tuple(self._evidence(index, nonce, parts) for index in range(self._count()))
            finally:
                self._nvml("nvmlShutdown")

    def _require_confidential(self) -> None:
        """``devToolsMode`` lets profilers look into the GPU, and no field of a report names it."""
        settings = _Settings(version=_SETTINGS_VERSION)
        self._call("nvmlSystemGetConfComputeSettings", ctypes.byref(settings))
        if not settings.ccFeature and not settings.multiGpuMode:  # protected PCIe counts as a mode of its own
            raise TeeError(Reason.TEE_REPORT, "GPU: confidential mode is off; have the host set it (--set-cc-mode=on)")
        if settings.devToolsMode:
            raise TeeError(Reason.TEE_REPORT, "GPU: developer mode; have the host set --set-cc-mode=on, not devtools")

    def _count(self) -> int:
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        if not count.value:
            raise TeeError(Reason.TEE_DEVICE_MISSING, "GPU: none; pass one through to this confidential VM")
        if count.value > MAX_DEVICES:
            raise TeeError(Reason.TEE_REPORT, f"GPU: at most {MAX_DEVICES} in one machine")
        return count.value

    def _evidence(self, index: int, nonce: bytes, parts: tuple[tuple[str, bytes], ...]) -> Evidence:
        device = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
        report = _Report(nonce=(ctypes.c_ubyte * _NONCE_BYTES)(*nonce))
        self._call("nvmlDeviceGetConfComputeGpuAttestationReport", device, ctypes.byref(report))
        certificates = _Certificates()
        self._call("nvmlDeviceGetConfComputeGpuCertificate", device, ctypes.byref(certificates))
        signed = _filled(report.attestationReport, report.attestationReportSize, _REPORT_BYTES)
        pem = _filled(certificates.attestationCertChain, certificates.attestationCertChainSize, _CHAIN_BYTES)
        return Evidence(EvidenceFormat.NVIDIA_GPU, _answering(signed, nonce), _chain(pem), parts=parts)

    def _call(self, function: str, *arguments: object) -> None:
        """Raises:
        TeeError: TEE_REPORT, with the library's number.
        """
        code = self._nvml(function, *arguments)
        if code != _SUCCESS:
            raise TeeError(Reason.TEE_REPORT, f"NVML: {function} failed with {code}")


def _filled(array: ctypes.Array[ctypes.c_ubyte], size: int, capacity: int) -> bytes:
    if not 0 < size <= capacity:
        raise TeeError(Reason.TEE_REPORT, f"NVML: 1 to {capacity} bytes expected")
    return bytes(array[:size])


def _answering(report: bytes, nonce: bytes) -> bytes:
    """``report`` if it answers ``nonce``: one that does not would only be refused by every peer."""
    try:
        parsed = spdm.parse(report)
    except ProtocolError as error:
        raise TeeError(Reason.TEE_REPORT, f"GPU: {error.detail}") from None
    if parsed.nonce != nonce:
        raise TeeError(Reason.TEE_REPORT, "GPU: the report answers another nonce")
    return report


def _chain(pem: bytes) -> tuple[bytes, ...]:
    """DER, leaf first, as NVML gives them."""
    try:
        certificates = x509.load_pem_x509_certificates(pem.rstrip(b"\x00"))
    except ValueError:
        raise TeeError(Reason.TEE_REPORT, "GPU: certificates in PEM expected") from None
    if not 1 < len(certificates) <= _MAX_CHAIN:
        raise TeeError(Reason.TEE_REPORT, f"GPU: a chain of 2 to {_MAX_CHAIN} certificates expected")
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)
