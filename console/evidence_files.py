"""Evidence out of files: our own container, or a bare report with its certificates. Trust zone: a member's machine.

Nothing is believed here; a file may come from anybody. What verifies is for ``trusted.attestation`` to say.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from console.files import read_bounded
from console.output import UserError
from trusted.attestation.evidence import MAX_CERTIFICATE_BYTES, MAX_CRL_BYTES, Evidence, EvidenceFormat
from trusted.attestation.formats.snp import REPORT_BYTES
from trusted.attestation.verify.certificates import read_certificate
from trusted.errors import AttestationError, WireError
from trusted.wire import MAX_RECORD_BYTES, label_of

_CONTAINER_LABEL = "cloister/evidence/v1"
_PEM = b"-----BEGIN "
_PEM_SLACK = 4  # base64, and several certificates in one file
_CHAIN = 3
_CHAIN_HINT = "Give three certificates with --cert: the chip's (VCEK or VLEK), the intermediate (ASK), the root (ARK)."


def read_evidence(path: Path, certificates: Sequence[Path], crl: Path | None) -> Evidence:
    """The evidence in ``path``: a container, or a bare SNP report that ``certificates`` and ``crl`` go with.

    Raises:
        OSError, UserError: a file cannot be read, is something else, or does not go with the others.
        WireError, AttestationError: a container that is damaged, or of a format that this release does not know.
    """
    data = read_bounded(path, MAX_RECORD_BYTES)
    if _is_container(data):
        if certificates or crl is not None:
            raise UserError(f"{path}: carries its own certificates", "Leave --cert and --crl away.")
        return Evidence.decode(data)
    if not certificates:
        what = "a bare SNP report" if len(data) == REPORT_BYTES else "neither an evidence container nor an SNP report"
        raise UserError(f"{path}: {what}", _CHAIN_HINT)
    return Evidence(EvidenceFormat.SNP, data, read_chain(certificates), _read_crl(crl))


def read_chain(paths: Iterable[Path]) -> tuple[bytes, ...]:
    """The DER of the three certificates in ``paths`` (DER or PEM, in any order), the chip's first and the root last.

    Raises:
        OSError, UserError: a file cannot be read or holds no certificate, or they are not three.
    """
    found = [der for path in paths for der in _certificates(path)]
    if len(found) != _CHAIN:
        raise UserError(f"{len(found)} certificates given", _CHAIN_HINT)
    return tuple(sorted(found, key=_place))


def _is_container(data: bytes) -> bool:
    try:
        return label_of(data) == _CONTAINER_LABEL
    except WireError:
        return False


def _certificates(path: Path) -> list[bytes]:
    data = read_bounded(path, _PEM_SLACK * MAX_CERTIFICATE_BYTES)
    if not data.lstrip().startswith(_PEM):
        return [data]
    try:
        with warnings.catch_warnings():
            # AMD's VCEKs have the serial number 0, and cryptography warns about each of them.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return [item.public_bytes(Encoding.DER) for item in x509.load_pem_x509_certificates(data)]
    except ValueError:
        raise UserError(f"{path}: no certificate in PEM", _CHAIN_HINT) from None


def _place(der: bytes) -> int:
    """Where a certificate stands in its chain. What does not read stays where it was given: the verifier tells why."""
    try:
        certificate = read_certificate(der, "certificate")
    except AttestationError:
        return 1
    if isinstance(certificate.key, ec.EllipticCurvePublicKey):
        return 0
    return 2 if certificate.subject == certificate.issuer else 1


def _read_crl(path: Path | None) -> bytes:
    if path is None:
        return b""
    data = read_bounded(path, _PEM_SLACK * MAX_CRL_BYTES)
    if not data.lstrip().startswith(_PEM):
        return data
    try:
        return x509.load_pem_x509_crl(data).public_bytes(Encoding.DER)
    except ValueError:
        raise UserError(f"{path}: no revocation list in PEM", "Give the vendor's list, in DER or PEM.") from None
