"""What verified Intel quotes say: TDX, SGX, and the platform that both stand on. Trust zone: every TEE."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, unique

from trusted.attestation.claims import InstanceKey
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.dcap import EnclaveBody, QuoteHeader, TdBody


@unique
class TcbStatus(Enum):
    """Intel's verdict on a platform, best first. ``Revoked`` is not here: it never verifies."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"

    @property
    def is_out_of_date(self) -> bool:
        """Whether updates are missing, so that it can be tolerated for some days alone."""
        return self in (TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED)


@unique
class PckFlag(Enum):
    """A configuration bit in the PCK's certificate. Single-package platforms do not say."""

    ON = "on"
    OFF = "off"
    UNDEFINED = "undefined"


@unique
class SgxType(Enum):
    """How the platform protects its memory. The value is the policy's spelling."""

    STANDARD = "standard"
    SCALABLE = "scalable"
    SCALABLE_WITH_INTEGRITY = "scalable-with-integrity"


@dataclass(frozen=True, slots=True)
class Pck:
    """What the certificate of the Provisioning Certification Key says: one platform at one TCB.

    Attributes:
        authority: ``platform`` or ``processor``: which of Intel's CAs issued it.
        ppid: 16 bytes, what identifies the processor package to Intel.
        platform_instance_id: 16 bytes, one registration of a multi-package platform; None elsewhere.
        fmspc: 6 bytes, family, model, stepping, platform and SKU. pce_id: 2.
        cpu_svn: 16 bytes. pce_svn: 0 to 65535.
    """

    authority: str
    ppid: bytes
    platform_instance_id: bytes | None
    fmspc: bytes
    pce_id: bytes
    cpu_svn: bytes
    pce_svn: int
    sgx_type: SgxType
    dynamic_platform: PckFlag
    cached_keys: PckFlag
    smt: PckFlag


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """One of Intel's levels: its verdict, and the date up to which it had all fixes."""

    status: TcbStatus
    date: datetime


@dataclass(frozen=True, slots=True)
class TcbVerdict:
    """Intel's verdict on platform, TDX module and quoting enclave.

    Attributes:
        status: the worst of all. advisories: all that apply, sorted.
        platform, qe: the levels of the platform and of the quoting enclave.
        evaluation: the lower of the two TCB evaluation data numbers: how recent Intel's knowledge is.
    """

    status: TcbStatus
    advisories: tuple[str, ...]
    platform: TcbLevel
    qe: TcbLevel
    evaluation: int


@dataclass(frozen=True, slots=True)
class IntelCollateral:
    """From when to when Intel's statements hold, and their numbers, which never go backwards."""

    tcb_issued: datetime
    tcb_next: datetime
    qe_issued: datetime
    qe_next: datetime
    pck_crl_number: int
    root_crl_number: int


@dataclass(frozen=True, slots=True)
class IntelPlatform:
    """The machine underneath, its quoting enclave, and what Intel says of them."""

    header: QuoteHeader
    qe: EnclaveBody
    pck: Pck
    tcb: TcbVerdict
    collateral: IntelCollateral

    @property
    def hardware_id(self) -> bytes:
        """PPID, 16 bytes."""
        return self.pck.ppid

    @property
    def instance_key(self) -> InstanceKey:
        """A PCK belongs to one platform."""
        return InstanceKey.CHIP

    @property
    def provider(self) -> str | None:
        """A PCK names no provider."""
        return None


@dataclass(frozen=True, slots=True)
class TdxClaims:
    """Everything that one verified TDX quote says.

    Attributes:
        events: for each of RTMR0 to RTMR3 the digests that the event log lists, where their replay gives the signed
            register; None for a register that it does not explain. None altogether when no log came along.
    """

    format: EvidenceFormat
    td: TdBody
    platform: IntelPlatform
    events: tuple[tuple[bytes, ...] | None, ...] | None

    @property
    def report_data(self) -> bytes:
        """64 bytes that the guest chose."""
        return self.td.report_data

    @property
    def measurement(self) -> bytes:
        """MRTD, 48 bytes: what was launched."""
        return self.td.mr_td

    @property
    def host_data(self) -> bytes:
        """The first 32 bytes of MRCONFIGID, which the host chose at launch."""
        return self.td.mr_config_id[:32]

    @property
    def product(self) -> str:
        """``TDX``."""
        return "TDX"

    @property
    def hardware_id(self) -> bytes:
        """PPID, 16 bytes."""
        return self.platform.hardware_id

    @property
    def instance_key(self) -> InstanceKey:
        """What the signing key identifies."""
        return self.platform.instance_key

    @property
    def provider(self) -> str | None:
        """None: a PCK names no provider."""
        return self.platform.provider

    @property
    def tcb_status(self) -> str:
        """Intel's verdict, in Intel's spelling."""
        return self.platform.tcb.status.value

    @property
    def advisories(self) -> tuple[str, ...]:
        """Intel's advisories that apply."""
        return self.platform.tcb.advisories


@dataclass(frozen=True, slots=True)
class SgxClaims:
    """Everything that one verified SGX quote says."""

    format: EvidenceFormat
    enclave: EnclaveBody
    platform: IntelPlatform

    @property
    def report_data(self) -> bytes:
        """64 bytes that the enclave chose."""
        return self.enclave.report_data

    @property
    def measurement(self) -> bytes:
        """MRENCLAVE, 32 bytes: what runs."""
        return self.enclave.mr_enclave

    @property
    def product(self) -> str:
        """``SGX``."""
        return "SGX"

    @property
    def hardware_id(self) -> bytes:
        """PPID, 16 bytes."""
        return self.platform.hardware_id

    @property
    def instance_key(self) -> InstanceKey:
        """What the signing key identifies."""
        return self.platform.instance_key

    @property
    def provider(self) -> str | None:
        """None: a PCK names no provider."""
        return self.platform.provider

    @property
    def tcb_status(self) -> str:
        """Intel's verdict, in Intel's spelling."""
        return self.platform.tcb.status.value

    @property
    def advisories(self) -> tuple[str, ...]:
        """Intel's advisories that apply."""
        return self.platform.tcb.advisories
