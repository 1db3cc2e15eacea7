"""Which TEE this is: what is looked for, in which order, and what was found. Trust zone: every TEE.

The innermost comes first: a library OS inside an enclave sees the files of no machine around it, and a confidential VM
is worth more than the TPM it also has. The first that is there is taken. If it then gives no evidence, that is an
error; the next one is never tried in its place.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trusted.attestation.formats.tcg_event_log import Bank
from trusted.errors import Reason, TeeError
from trusted.evidence import azure_vtpm, gcp_cs, gramine, tpm
from trusted.evidence.cca import CCA_PROVIDER, cca_maker, key_file
from trusted.evidence.configfs_tsm import REPORT_DIRECTORY, ConfigfsTsm, KernelTsmFs, TsmFs
from trusted.evidence.dcap import TDX_PROVIDER, collateral_file, tdx_maker
from trusted.evidence.nsm import Nsm
from trusted.evidence.provider import EvidenceProvider
from trusted.evidence.sev_guest import SevGuest
from trusted.evidence.tpm import PcrChoice

ENDORSEMENTS = Path("/etc/cloister/endorsements")
_MAX_FILE_BYTES = 64 << 10
_AZURE_ASSET_TAG = b"7783-7084-3265-9085-8269-3286-77"  # what Azure's firmware writes into each of its VMs
_CHASSIS_ASSET_TAG = "sys/class/dmi/id/chassis_asset_tag"

TsmAt = Callable[[Path], TsmFs]


@dataclass(frozen=True, slots=True)
class Provisions:
    """What a source needs and the machine itself does not know. Peers verify all of it.

    Attributes:
        endorsements: a folder that the operator fills: ``intel.json`` (TDX, SGX), ``cpak`` (CCA, PEM, DER or JWK),
            ``chain.pem`` and ``crl.der`` (Azure: VCEK, ASK and ARK; TPM: the key's chain), ``jwks.json`` (Google).
        pcrs: which PCRs a TPM quotes: the charter's policy says so.
    """

    endorsements: Path = ENDORSEMENTS
    pcrs: PcrChoice = field(default_factory=lambda: PcrChoice(Bank.SHA256, (4, 9, 11)))


@dataclass(frozen=True, slots=True)
class Found:
    """One source of evidence that was looked for.

    Attributes:
        name: of the source.
        looked_for: where.
        present: whether it is there.
        detail: what it says of itself, or what to do where it should be there.
    """

    name: str
    looked_for: str
    present: bool
    detail: str


@dataclass(frozen=True, slots=True)
class _Source:
    """One source. ``says`` gives what it says of itself; None where it is not there."""

    name: str
    path: str
    remedy: str
    says: Callable[[Path, TsmAt], str | None]
    open: Callable[[Path, Provisions, TsmAt], EvidenceProvider]


def survey(root: Path = Path("/"), *, tsm: TsmAt = KernelTsmFs) -> tuple[Found, ...]:
    """Every source of evidence below ``root``, in the order in which :func:`detect` takes them."""
    return tuple(_look(source, root, tsm) for source in _SOURCES)


def detect(
    root: Path = Path("/"), provisions: Provisions | None = None, *, tsm: TsmAt = KernelTsmFs
) -> EvidenceProvider:
    """The evidence source of the machine below ``root``.

    Raises:
        TeeError: TEE_DEVICE_MISSING, what was looked for and what to do. There is no stand-in.
    """
    for source in _SOURCES:
        if source.says(root, tsm) is not None:
            return source.open(root, provisions or Provisions(), tsm)
    looked_for = ", ".join(f"/{source.path}" for source in _SOURCES)
    hint = "run inside a confidential VM or an enclave, with its driver loaded; `cloister doctor` says what is missing"
    raise TeeError(Reason.TEE_DEVICE_MISSING, f"no TEE found (looked for {looked_for}): {hint}")


def _look(source: _Source, root: Path, tsm: TsmAt) -> Found:
    said = source.says(root, tsm)
    return Found(source.name, f"/{source.path}", said is not None, source.remedy if said is None else said)


def _path_says(path: str, words: str) -> Callable[[Path, TsmAt], str | None]:
    return lambda root, _: words if (root / path).exists() else None


def _gramine_says(root: Path, _: TsmAt) -> str | None:
    kind = _read_line(root / _GRAMINE)
    return None if kind is None else f"attestation type {_printable(kind)}"


def _tsm_says(root: Path, tsm: TsmAt) -> str | None:
    """The provider's name. The directory alone says nothing: it is there as soon as the module is loaded."""
    if not (root / _TSM).is_dir():
        return None
    fs, name = tsm(root / _TSM), f"cloister-{secrets.token_hex(8)}"
    try:
        fs.make(name)
    except OSError:
        return None
    try:
        return f"provider {_printable(fs.read(name, 'provider').strip())}"
    except OSError:
        return None
    finally:
        with suppress(OSError):
            fs.remove(name)


def _azure_says(root: Path, _: TsmAt) -> str | None:
    tag = _read_line(root / _CHASSIS_ASSET_TAG)
    if tag != _AZURE_ASSET_TAG or not (root / _TPM).exists():
        return None
    return "a VM of Azure with a vTPM; whether it is a confidential one shows when it is asked"


def _read_line(path: Path) -> bytes | None:
    """The first bytes of a small file; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(128).strip(b"\0\n ")
    except OSError:
        return None


def _printable(text: bytes) -> str:
    return text[:64].decode("ascii", "replace") if text else "unnamed"


def _open_tsm(root: Path, provisions: Provisions, tsm: TsmAt) -> EvidenceProvider:
    makers = {
        TDX_PROVIDER: tdx_maker(collateral_file(provisions.endorsements / "intel.json")),
        CCA_PROVIDER: cca_maker(key_file(provisions.endorsements / "cpak")),
    }
    # The kernel makes this device in an SEV-SNP guest alone, also where its reports come from configfs-tsm.
    sealing = SevGuest(root / _SEV_GUEST) if (root / _SEV_GUEST).exists() else None
    return ConfigfsTsm(tsm(root / _TSM), makers=makers, sealing=sealing)


def _open_gramine(root: Path, provisions: Provisions, _: TsmAt) -> EvidenceProvider:
    return gramine.detect(collateral_file(provisions.endorsements / "intel.json"), (root / _GRAMINE).parent)


def _open_azure(root: Path, provisions: Provisions, _: TsmAt) -> EvidenceProvider:
    chain = read_chain(provisions.endorsements / "chain.pem")
    crl = _optional(provisions.endorsements / "crl.der")
    endorsements = azure_vtpm.Endorsements(chain, crl)
    return azure_vtpm.detect(provisions.pcrs, endorsements, device=root / _TPM)


def _open_gcp(root: Path, provisions: Provisions, _: TsmAt) -> EvidenceProvider:
    return gcp_cs.detect(_required(provisions.endorsements / "jwks.json"), launcher=root / _GCP)


def _open_tpm(root: Path, provisions: Provisions, _: TsmAt) -> EvidenceProvider:
    chain = read_chain(provisions.endorsements / "chain.pem")
    return tpm.detect(provisions.pcrs, certificates=chain, device=root / _TPM)


def read_chain(path: Path) -> tuple[bytes, ...]:
    """DER of the certificates in a PEM file; none where there is no file.

    Raises:
        TeeError: TEE_REPORT, it cannot be read, or is something else.
    """
    content = _optional(path)
    try:
        chain = x509.load_pem_x509_certificates(content) if content else []
    except ValueError:
        raise TeeError(Reason.TEE_REPORT, f"{path}: certificates in PEM expected") from None
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)


def _required(path: Path) -> bytes:
    content = _optional(path)
    if not content:
        raise TeeError(Reason.TEE_REPORT, f"no {path}: place there what the charter pins")
    return content


def _optional(path: Path) -> bytes:
    if not path.exists():
        return b""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError:
        raise TeeError(Reason.TEE_REPORT, f"{path}: cannot be read") from None
    if len(content) > _MAX_FILE_BYTES:
        raise TeeError(Reason.TEE_REPORT, f"{path}: at most {_MAX_FILE_BYTES} bytes expected")
    return content


_GRAMINE = "dev/attestation/attestation_type"
_NSM = "dev/nsm"
_TSM = str(REPORT_DIRECTORY.relative_to("/"))
_SEV_GUEST = "dev/sev-guest"
_GCP = str(gcp_cs.LAUNCHER.relative_to("/"))
_TPM = "dev/tpmrm0"

# In the order in which they are taken.
_SOURCES: tuple[_Source, ...] = (
    _Source(
        "gramine", _GRAMINE, "for SGX: start the process with gramine-sgx, with DCAP", _gramine_says, _open_gramine
    ),
    _Source(
        "nsm",
        _NSM,
        "for a Nitro Enclave: build its kernel with CONFIG_NSM, and run it with nitro-cli run-enclave",
        _path_says(_NSM, "the security module of a Nitro Enclave"),
        lambda root, provisions, tsm: Nsm(root / _NSM),
    ),
    _Source(
        "configfs-tsm",
        _TSM,
        "for SEV-SNP, TDX and CCA on Linux 6.7 or later: mount -t configfs none /sys/kernel/config; modprobe "
        "sev-guest, tdx-guest or arm-cca-guest",
        _tsm_says,
        _open_tsm,
    ),
    _Source(
        "sev-guest",
        _SEV_GUEST,
        "for SEV-SNP on an older Linux: modprobe sev-guest",
        _path_says(_SEV_GUEST, "the security processor of an SEV-SNP guest"),
        lambda root, provisions, tsm: SevGuest(root / _SEV_GUEST),
    ),
    _Source(
        "gcp-cs",
        _GCP,
        "for Confidential Space: start the workload from the image family confidential-space",
        _path_says(_GCP, "the launcher of Google's Confidential Space"),
        _open_gcp,
    ),
    _Source(
        "azure-vtpm",
        _CHASSIS_ASSET_TAG,
        "for a confidential VM of Azure: --security-type ConfidentialVM --enable-vtpm true",
        _azure_says,
        _open_azure,
    ),
    _Source(
        "tpm",
        _TPM,
        "for a measured machine: switch its TPM 2.0 on, and give this user access to it",
        _path_says(_TPM, "a TPM 2.0; it protects no memory"),
        _open_tpm,
    ),
)
