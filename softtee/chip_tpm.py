"""The TPM of one made-up machine: its seeds, and a certificate of the throw-away root for its attestation key.

Trust zone: the software TEE, which protects nothing: whoever reads the folder has the TPM's keys. The key is made anew
from the seeds at each start and never leaves swtpm. The root signs its certificate itself, as PKCS #1 v1.5: chains of
attestation keys are in that form, and those of AMD's chips are not.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from softtee import certificates, swtpm
from softtee.chip import SoftwareRoot
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.tpm import parse_public
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify.tpm import key_sha256, public_key
from trusted.errors import Reason, TeeError

PRODUCT = "software TPM"
_FOLDER, _STATE = "tpm", "state"
_FILES = ("ak.der", "root.der")
_AIK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.3")  # tcg-kp-AIKCertificate
_BACKDATED = timedelta(hours=1)
_YEARS = 7


def tpm_root(root_sha256: bytes) -> TrustRoot:
    """The software root (SHA-256 of its ARK, 32 bytes) as a charter names it for TPMs. Its assurance is ``none``."""
    return TrustRoot(EvidenceFormat.TPM, PRODUCT, root_sha256)


@dataclass(frozen=True, slots=True)
class ChipTpm:
    """The TPM in a chip's folder.

    Attributes:
        state: swtpm's own folder.
        certificates: DER, of the attestation key and of the root.
    """

    state: Path
    certificates: tuple[bytes, ...]

    @property
    def key_sha256(self) -> bytes:
        """How a charter names the attestation key: SHA-256 of its SubjectPublicKeyInfo, 32 bytes."""
        key = x509.load_der_x509_certificate(self.certificates[0]).public_key()
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise ValueError("ak.der: an RSA or elliptic curve key expected")
        return key_sha256(key)

    @classmethod
    def make(cls, chip: Path, root: SoftwareRoot, *, now: datetime) -> ChipTpm:
        """A new TPM in the folder of a chip, in the place of any older one.

        Raises:
            TeeError: TEE_DEVICE_MISSING, there is no swtpm, and nothing was changed; LAUNCH_FAILED.
        """
        swtpm.installed()
        remove_tpm(chip)
        folder = chip / _FOLDER
        state = folder / _STATE
        for made in (folder, state):
            made.mkdir(mode=0o700)
        with swtpm.running(state) as tpm:
            key = public_key(parse_public(tpm.client.create_ak().public))
        chain = (_certificate(key, root.ark, now=now), root.ark.certificate.public_bytes(Encoding.DER))
        for name, der in zip(_FILES, chain, strict=True):
            (folder / name).write_bytes(der)
        return cls(state, chain)

    @classmethod
    def load(cls, chip: Path) -> ChipTpm:
        """The TPM that :meth:`make` put into the folder of a chip.

        Raises:
            TeeError: TEE_DEVICE_MISSING, this chip has none.
        """
        folder = chip / _FOLDER
        try:
            return cls(folder / _STATE, tuple((folder / name).read_bytes() for name in _FILES))
        except OSError:
            raise TeeError(
                Reason.TEE_DEVICE_MISSING,
                "software TPM: this chip has none; make a chip with one (cloister tee chip --tpm)",
            ) from None


def remove_tpm(chip: Path) -> None:
    """Take the TPM out of a chip's folder, if there is one."""
    shutil.rmtree(chip / _FOLDER, ignore_errors=True)


def _certificate(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, root: certificates.Issuer, *, now: datetime
) -> bytes:
    """DER of the root's certificate for an attestation key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, PRODUCT)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(root.certificate.subject).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _BACKDATED).not_valid_after(now + timedelta(days=365 * _YEARS))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([_AIK_CERTIFICATE]), critical=False)
    return builder.sign(root.key, hashes.SHA256()).public_bytes(Encoding.DER)
