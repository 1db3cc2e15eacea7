"""Evidence from the kernel's configfs-tsm (Linux >= 6.7) in a real confidential VM. Trust zone: every TEE.

One directory for each request under ``/sys/kernel/config/tsm/report``: write ``inblob``, read ``outblob`` and
``auxblob``, and compare ``generation`` so that another process's request is never taken for ours. The kernel names the
provider: SEV-SNP is read here, others by a maker that the caller passes, because they need more than the kernel gives.
The host supplies the certificate table and may lie about it; peers verify the chain. A missing device is an error and
never a mode: nothing here falls back.
Sources: Linux ``Documentation/ABI/testing/configfs-tsm-report``; AMD GHCB 56421, ``cert_table``.
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
import secrets
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.errors import Reason, TeeError, WireError
from trusted.evidence.sealing import SealingSource, no_sealing_key
from trusted.wire import exactly

REPORT_DIRECTORY = Path("/sys/kernel/config/tsm/report")
_SNP_PROVIDER = b"sev_guest"
_SNP_REPORT_BYTES = 1184
_MAX_BLOB_BYTES = 64 << 10
_ATTEMPTS = 8
_PAUSE_S = 0.05
_WRITES = 1  # ``inblob`` is all that is written, and every write advances ``generation`` by one
# What the kernel answers while firmware or another request is busy. All else is final.
_TRANSIENT = (errno.EBUSY, errno.EWOULDBLOCK, errno.EINTR, errno.ETIMEDOUT)

# GUIDs of the certificate table, big-endian byte order.
_VCEK = bytes.fromhex("63da758de6644564adc5f4b93be8accd")
_VLEK = bytes.fromhex("a8074bc2a25a483eaae639c045a0b8a1")
_ASK = bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782")
_ARK = bytes.fromhex("c0b406a4a803495297433fb6014cd0ae")
_CRL = bytes.fromhex("92f81bc358114d3d97ffd19f88dc67ea")
_ENTRY = struct.Struct("<16sII")  # GUID, offset, length
_MAX_ENTRIES = 16


@dataclass(frozen=True, slots=True)
class TsmReport:
    """What one request gave: the signed report, and what the host added to it."""

    outblob: bytes
    auxblob: bytes


# Makes evidence of a provider's report; raises TeeError.
EvidenceMaker = Callable[[TsmReport], Evidence]
_NO_MAKERS: Mapping[bytes, EvidenceMaker] = MappingProxyType({})


class TsmFs(Protocol):
    """The four file operations that this needs, so that a fake kernel can stand in their place."""

    def make(self, name: str) -> None:
        """Create the request ``name``."""
        ...

    def read(self, name: str, attribute: str) -> bytes:
        """The whole of ``attribute``, at most 64 KiB."""
        ...

    def write(self, name: str, attribute: str, content: bytes) -> None:
        """Write ``content`` in one call."""
        ...

    def remove(self, name: str) -> None:
        """Remove the request ``name``."""
        ...


class KernelTsmFs:
    """The kernel's own directory."""

    def __init__(self, directory: Path = REPORT_DIRECTORY) -> None:
        """Requests below ``directory``."""
        self._directory = directory

    def make(self, name: str) -> None:
        """Create the request ``name``."""
        (self._directory / name).mkdir()

    def read(self, name: str, attribute: str) -> bytes:
        """The whole of ``attribute``, at most 64 KiB; OSError EFBIG if there is more."""
        with open(self._directory / name / attribute, "rb", buffering=0) as file:
            content = b""
            while part := file.read(_MAX_BLOB_BYTES + 1 - len(content)):
                content += part
        if len(content) > _MAX_BLOB_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return content

    def write(self, name: str, attribute: str, content: bytes) -> None:
        """Write ``content`` in one call: the kernel takes each write for a whole value."""
        descriptor = os.open(self._directory / name / attribute, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Remove the request: configfs attributes cannot be unlinked, the directory goes as a whole."""
        (self._directory / name).rmdir()


def detect(directory: Path = REPORT_DIRECTORY, *, makers: Mapping[bytes, EvidenceMaker] = _NO_MAKERS) -> ConfigfsTsm:
    """The evidence source of this machine, with ``makers`` for providers other than SEV-SNP's.

    Raises:
        TeeError: TEE_DEVICE_MISSING, and what was looked for. There is no other answer, and no stand-in.
    """
    if not directory.is_dir():
        raise TeeError(
            Reason.TEE_DEVICE_MISSING,
            f"no {directory}: this is no confidential VM with SEV-SNP or TDX on Linux 6.7 or later, or configfs is not "
            "mounted (mount -t configfs none /sys/kernel/config; modprobe sev-guest or tdx-guest)",
        )
    return ConfigfsTsm(KernelTsmFs(directory), makers=makers)


class ConfigfsTsm:
    """Evidence through ``fs``. One request for each call; calls do not share state."""

    def __init__(
        self,
        fs: TsmFs,
        *,
        makers: Mapping[bytes, EvidenceMaker] = _NO_MAKERS,
        pause: Callable[[float], None] = time.sleep,
        sealing: SealingSource | None = None,
    ) -> None:
        """``makers``: by the kernel's name of the provider, besides SEV-SNP's; ``pause`` waits between attempts, in
        seconds; ``sealing``: where this machine's sealing key comes from, which configfs-tsm has no file for."""
        self._fs = fs
        self._sealing = sealing
        self._makers = {_SNP_PROVIDER: snp_evidence, **makers}
        self._pause = pause

    def evidence(self, report_data: bytes) -> Evidence:
        """A fresh report that carries ``report_data``, exactly 64 bytes, with what endorses it.

        Raises:
            WireError: ``report_data`` has another length.
            TeeError: TEE_DEVICE_MISSING, no such device; TEE_REPORT, it stays busy, another process keeps interfering,
                its provider is one that nothing here can read, or the endorsements are missing.
        """
        exactly(report_data, 64, "report_data")
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._pause(_PAUSE_S * attempt)
            found = self._attempt(report_data)
            if found is not None:
                return self._evidence(*found)
        raise TeeError(Reason.TEE_REPORT, f"configfs-tsm: busy or interfered with in {_ATTEMPTS} attempts")

    def _evidence(self, provider: bytes, report: TsmReport) -> Evidence:
        maker = self._makers.get(provider)
        if maker is None:
            known = ", ".join(name.decode("ascii") for name in sorted(self._makers))
            hint = (
                "a TDX guest needs Intel's collateral: name its file" if provider == b"tdx_guest" else "not supported"
            )
            raise TeeError(Reason.TEE_REPORT, f"configfs-tsm provider: one of {known} expected; {hint}")
        return maker(report)

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """None: what holds devices adds them (``devices.py``)."""
        return ()

    def sealing_key(self, label: bytes) -> bytes:
        """The key of the source beside configfs-tsm, 32 secret bytes; TEE_NO_SEALING without one."""
        if self._sealing is None:
            raise no_sealing_key("configfs-tsm")
        return self._sealing.sealing_key(label)

    def _attempt(self, report_data: bytes) -> tuple[bytes, TsmReport] | None:
        """``provider`` and report of one request; None if another attempt may succeed."""
        name = f"cloister-{secrets.token_hex(8)}"
        try:
            self._fs.make(name)
        except OSError as error:
            _only_transient(error, "request directory")
            return None
        try:
            before = self._generation(name)
            self._fs.write(name, "inblob", report_data)
            outblob = self._fs.read(name, "outblob")
            auxblob = self._fs.read(name, "auxblob")
            provider = self._fs.read(name, "provider").strip()
            undisturbed = self._generation(name) == before + _WRITES
        except OSError as error:
            _only_transient(error, "report")
            return None
        finally:
            self._remove(name)
        return (provider, TsmReport(outblob, auxblob)) if undisturbed else None

    def _generation(self, name: str) -> int:
        text = self._fs.read(name, "generation").strip()
        if not text.isdigit() or len(text) > 20:
            raise TeeError(Reason.TEE_REPORT, "configfs-tsm generation: a decimal number expected")
        return int(text)

    def _remove(self, name: str) -> None:
        try:
            self._fs.remove(name)
        except OSError as error:
            _only_transient(error, "request directory")


def _only_transient(error: OSError, what: str) -> None:
    """Return for what may pass; everything else is final.

    Raises:
        TeeError: TEE_DEVICE_MISSING if the device is not there, TEE_REPORT otherwise.
    """
    if error.errno in _TRANSIENT:
        return
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        raise TeeError(Reason.TEE_DEVICE_MISSING, f"configfs-tsm {what}: {name}; {REPORT_DIRECTORY} was looked for")
    raise TeeError(Reason.TEE_REPORT, f"configfs-tsm {what}: {name}") from None


def snp_evidence(report: TsmReport) -> Evidence:
    """A report and its certificate table as evidence; ``sev_guest.py`` gets the same two from its ioctl.

    Raises:
        TeeError: TEE_REPORT.
    """
    if len(report.outblob) != _SNP_REPORT_BYTES:
        raise TeeError(Reason.TEE_REPORT, f"configfs-tsm outblob: {_SNP_REPORT_BYTES} bytes expected")
    try:
        table = parse_certificate_table(report.auxblob)
        leaf = table.get(_VCEK) or table.get(_VLEK)
        chain = (leaf, table.get(_ASK), table.get(_ARK))
        if None in chain:
            raise WireError(Reason.MISSING_FIELD, "auxblob: VCEK or VLEK, ASK and ARK expected")
        certificates = tuple(_to_der(entry) for entry in chain if entry is not None)
        return Evidence(EvidenceFormat.SNP, report.outblob, certificates, _to_der(table.get(_CRL, b"")))
    except WireError as error:
        hint = "the host must be configured to supply the certificate chain (SNP_SET_EXT_CONFIG)"
        raise TeeError(Reason.TEE_REPORT, f"configfs-tsm {error.detail}; {hint}") from None


def parse_certificate_table(auxblob: bytes) -> dict[bytes, bytes]:
    """The entries of a GHCB certificate table by GUID (16 bytes, big-endian). The host wrote it and may be lying.

    Raises:
        WireError: no terminator, too many entries, an entry twice, or one that points outside.
    """
    if len(auxblob) > _MAX_BLOB_BYTES:
        raise WireError(Reason.TOO_LARGE, f"auxblob: more than {_MAX_BLOB_BYTES} bytes")
    table: dict[bytes, bytes] = {}
    for position in range(0, (_MAX_ENTRIES + 1) * _ENTRY.size, _ENTRY.size):
        if position + _ENTRY.size > len(auxblob):
            raise WireError(Reason.MALFORMED, "auxblob: the table of certificates is missing or has no end")
        guid, offset, length = _ENTRY.unpack_from(auxblob, position)
        if not any(guid):
            return table
        if guid in table or length == 0 or offset + length > len(auxblob):
            raise WireError(Reason.MALFORMED, "auxblob: an entry twice, empty, or outside of the table")
        table[guid] = auxblob[offset : offset + length]
    raise WireError(Reason.TOO_LARGE, f"auxblob: more than {_MAX_ENTRIES} entries")


def _to_der(entry: bytes) -> bytes:
    """DER of one certificate or CRL: hosts give DER, some give PEM. What it says is for the verifier to judge."""
    text = entry.strip(b"\0 \r\n")
    if not text.startswith(b"-----BEGIN "):
        return entry
    lines = text.replace(b"\r", b"").split(b"\n")
    if not lines[-1].startswith(b"-----END ") or any(b"-----" in line for line in lines[1:-1]):
        raise WireError(Reason.MALFORMED, "auxblob: one PEM block expected in each entry")
    try:
        return base64.b64decode(b"".join(lines[1:-1]), validate=True)
    except binascii.Error:
        raise WireError(Reason.MALFORMED, "auxblob: a PEM block is not base64") from None
