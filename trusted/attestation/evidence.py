"""The container that carries evidence and its endorsements (docs/protocol.md §3.1). Trust zone: every TEE.

Endorsements travel with the evidence, so verification needs no network. Nothing in here is believed yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, unique

from trusted.errors import AttestationError, Reason, WireError
from trusted.wire import length_prefixed, pack, sha256, split_items, unpack

_LABEL = "cloister/evidence/v1"
# Bounds that hold before anything is parsed, so that a peer nobody knows yet costs little memory.
MAX_REPORT_BYTES = 32 << 10
MAX_CERTIFICATES = 8
MAX_CERTIFICATE_BYTES = 8 << 10
MAX_CRL_BYTES = 64 << 10
MAX_PARTS = 8
MAX_PART_BYTES = 256 << 10
MAX_EVIDENCE_BYTES = 1 << 19


_PART_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


@unique
class EvidenceFormat(Enum):
    """The evidence formats that ``trusted.attestation.verify`` knows. The value is the wire's spelling."""

    SNP = "snp"
    TDX = "tdx"
    SGX = "sgx"
    NITRO = "nitro"
    CCA = "cca"
    NVIDIA_GPU = "nvidia-gpu"
    TPM = "tpm"
    AZURE_VTPM = "azure-vtpm"
    GCP_CS = "gcp-cs"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One attestation report with what endorses it, all of it unverified.

    Attributes:
        format: how ``report`` and ``certificates`` are to be read.
        report: the signed report as the hardware gave it (SNP: 1184 bytes).
        certificates: DER, leaf first (SNP: CEK, ASK, ARK).
        crl: DER of the vendor's revocation list; empty when none came along.
        parts: what else the format needs, by name, in the order of names (event log, collateral, a second signature).
    """

    format: EvidenceFormat
    report: bytes
    certificates: tuple[bytes, ...]
    crl: bytes = b""
    parts: tuple[tuple[str, bytes], ...] = ()

    def __post_init__(self) -> None:
        """Hold the bounds, whoever made the object.

        Raises:
            WireError: TOO_LARGE.
        """
        if len(self.report) > MAX_REPORT_BYTES:
            raise WireError(Reason.TOO_LARGE, f"evidence.report: at most {MAX_REPORT_BYTES} bytes")
        if len(self.certificates) > MAX_CERTIFICATES:
            raise WireError(Reason.TOO_LARGE, f"evidence.certificates: at most {MAX_CERTIFICATES}")
        if any(len(certificate) > MAX_CERTIFICATE_BYTES for certificate in self.certificates):
            raise WireError(Reason.TOO_LARGE, f"evidence.certificates: at most {MAX_CERTIFICATE_BYTES} bytes each")
        if len(self.crl) > MAX_CRL_BYTES:
            raise WireError(Reason.TOO_LARGE, f"evidence.crl: at most {MAX_CRL_BYTES} bytes")
        if len(self.parts) > MAX_PARTS or any(len(content) > MAX_PART_BYTES for _, content in self.parts):
            raise WireError(Reason.TOO_LARGE, f"evidence.parts: at most {MAX_PARTS}, of {MAX_PART_BYTES} bytes each")
        names = [name for name, _ in self.parts]
        if names != sorted(set(names)) or not all(_PART_NAME.fullmatch(name) for name in names):
            raise WireError(Reason.MALFORMED, "evidence.parts: distinct names in their order expected")

    def part(self, name: str) -> bytes:
        """The content of one part; empty when it did not come along."""
        return dict(self.parts).get(name, b"")

    def encode(self) -> bytes:
        """The record of docs/protocol.md §3.1."""
        certificates = length_prefixed(*self.certificates)
        parts = length_prefixed(*(item for name, content in self.parts for item in (name.encode("ascii"), content)))
        return pack(_LABEL, self.format.value.encode("ascii"), self.report, certificates, self.crl, parts)

    @classmethod
    def decode(cls, record: bytes) -> Evidence:
        """The container in ``record``; its sender may be lying about everything inside.

        Raises:
            WireError: not such a record, or over a bound.
            AttestationError: EVIDENCE_FORMAT, a format that this release does not know.
        """
        name, report, certificates, crl, parts = unpack(record, _LABEL, 5, max_bytes=MAX_EVIDENCE_BYTES)
        known = {kind.value.encode("ascii"): kind for kind in EvidenceFormat}
        if name not in known:
            raise AttestationError(Reason.EVIDENCE_FORMAT, f"evidence.format: one of {_format_names()} expected")
        chain = split_items(certificates, "evidence.certificates", MAX_CERTIFICATES)
        return cls(known[name], report, chain, crl, _named(split_items(parts, "evidence.parts", 2 * MAX_PARTS)))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the record. It addresses these bytes; it identifies no machine, for a signature has twins."""
        return sha256(self.encode())


def _format_names() -> str:
    return ", ".join(kind.value for kind in EvidenceFormat)


def _named(items: tuple[bytes, ...]) -> tuple[tuple[str, bytes], ...]:
    """Names and contents in turn."""
    if len(items) % 2 or any(not name.isascii() for name in items[::2]):
        raise WireError(Reason.MALFORMED, "evidence.parts: an ASCII name before each content expected")
    return tuple((name.decode("ascii"), content) for name, content in zip(items[::2], items[1::2], strict=True))
