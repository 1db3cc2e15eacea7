"""A throw-away root and the chips made under it: real evidence formats, no hardware behind them.

Trust zone: the software TEE, which plays the processor and protects nothing. Whoever can read its directory can forge
its evidence. A verifier finds no vendor's root in the chain, so the assurance is ``none``, whatever a chip says.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from softtee import certificates, report
from softtee.report import ReportFields
from softtee.sealing import chip_secret
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.products import PRODUCTS, Product
from trusted.attestation.roots import TrustRoot
from trusted.wire import sha256

_TCB = {
    "Milan": (("bl", 4), ("tee", 0), ("snp", 24), ("ucode", 219)),
    "Genoa": (("bl", 10), ("tee", 0), ("snp", 25), ("ucode", 84)),
    "Turin": (("fmc", 0), ("bl", 1), ("tee", 0), ("snp", 2), ("ucode", 71)),
}
_CPUID = {"Milan": (0x19, 0x01, 0x01), "Genoa": (0x19, 0x11, 0x01), "Turin": (0x1A, 0x02, 0x01)}


@dataclass(frozen=True, slots=True)
class Chip:
    """One made-up processor.

    Attributes:
        certificate_chain: DER of VCEK, ASK and ARK.
        crl: DER of the root's revocation list.
        key: the VCEK's private key, P-384.
        product: processor generation.
        hardware_id: what the VCEK says of the chip, 8 (Turin) or 64 bytes.
    """

    certificate_chain: tuple[bytes, bytes, bytes]
    crl: bytes
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    product: Product
    hardware_id: bytes

    @property
    def chip_id(self) -> bytes:
        """CHIP_ID as reports carry it, 64 bytes."""
        return self.hardware_id.ljust(64, b"\x00")

    def fields(self) -> ReportFields:
        """The fields of an ordinary report of this chip; derive others with ``dataclasses.replace``."""
        tcb = _raw_tcb(self.product)
        return ReportFields(
            chip_id=self.chip_id,
            cpuid=_CPUID[self.product.name],
            current_tcb=tcb,
            reported_tcb=tcb,
            committed_tcb=tcb,
            launch_tcb=tcb,
            report_id=secrets.token_bytes(32),
        )

    def attest(
        self, *, report_data: bytes, measurement: bytes, host_data: bytes, fields: ReportFields | None = None
    ) -> Evidence:
        """Evidence over ``report_data`` (64 bytes) for a guest measured as ``measurement`` (48), launched with
        ``host_data`` (32). The other fields come from ``fields``, by default those of :meth:`fields`."""
        filled = replace(fields or self.fields(), report_data=report_data, measurement=measurement, host_data=host_data)
        return self.evidence(self.sign(report.encode(filled)))

    def sign(self, body: bytes) -> bytes:
        """A report of 1184 bytes over any ``body`` of 672 bytes, well-formed or not."""
        r, s = decode_dss_signature(self.key.sign(body, ec.ECDSA(hashes.SHA384())))
        return report.assemble(body, r, s)

    def evidence(self, report_bytes: bytes) -> Evidence:
        """``report_bytes`` with this chip's endorsements."""
        return Evidence(EvidenceFormat.SNP, report_bytes, self.certificate_chain, self.crl)

    def save(self, directory: Path) -> None:
        """Write the chip to ``directory`` (made 0700; the key 0600), with a sealing secret where it has none yet."""
        _make_private(directory)
        _write(directory / "vcek.key", _pem(self.key))
        for name, der in zip(("vcek", "ask", "ark"), self.certificate_chain, strict=True):
            _write(directory / f"{name}.der", der)
        _write(directory / "crl.der", self.crl)
        _write(directory / "product", self.product.name.encode("ascii"))
        _write(directory / "hwid", self.hardware_id.hex().encode("ascii"))
        chip_secret(directory)

    @classmethod
    def load(cls, directory: Path) -> Chip:
        """The chip that :meth:`save` wrote.

        Raises:
            OSError: a file is missing or unreadable.
            ValueError: a file that :meth:`save` did not write.
        """
        key = serialization.load_pem_private_key((directory / "vcek.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("vcek.key: a P-384 key expected")
        vcek, ask, ark = ((directory / f"{name}.der").read_bytes() for name in ("vcek", "ask", "ark"))
        product = (directory / "product").read_text("ascii")
        if product not in PRODUCTS:
            raise ValueError(f"product: one of {', '.join(PRODUCTS)} expected")
        hardware_id = bytes.fromhex((directory / "hwid").read_text("ascii"))
        return cls((vcek, ask, ark), (directory / "crl.der").read_bytes(), key, PRODUCTS[product], hardware_id)


@dataclass(frozen=True, slots=True)
class SoftwareRoot:
    """A made-up AMD: root and intermediate keys (RSA-4096), and a revocation list signed by the root.

    Attributes:
        product: the one processor generation that it makes.
        ark, ask: certificates with their keys.
        crl: DER of the revocation list.
    """

    product: Product
    ark: certificates.Issuer = field(repr=False)
    ask: certificates.Issuer = field(repr=False)
    crl: bytes = field(repr=False)

    @classmethod
    def create(cls, *, now: datetime, product: str = "Genoa") -> SoftwareRoot:
        """A new root. Slow: two RSA-4096 keys are drawn.

        Raises:
            ValueError: an unknown product.
        """
        if product not in PRODUCTS:
            raise ValueError(f"product: one of {', '.join(PRODUCTS)} expected")
        return cls.from_keys(_rsa_key(), _rsa_key(), now=now, product=product)

    @classmethod
    def from_keys(
        cls, ark_key: rsa.RSAPrivateKey, ask_key: rsa.RSAPrivateKey, *, now: datetime, product: str
    ) -> SoftwareRoot:
        """A root with these keys (RSA-4096), so that tests need not draw new ones for each root."""
        ark = certificates.ark(ark_key, product=product, now=now)
        ask = certificates.ask(ask_key, ark, product=product, now=now)
        return cls(PRODUCTS[product], ark, ask, certificates.revocation_list(ark, now=now))

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the root certificate's DER: how a development charter names this root."""
        return sha256(_der(self.ark))

    @property
    def trust_root(self) -> TrustRoot:
        """The root for a verifier. Its assurance is ``none``."""
        return TrustRoot(EvidenceFormat.SNP, self.product.name, self.sha256)

    def issue_chip(self, *, now: datetime) -> Chip:
        """A new chip with a key and an identity of its own."""
        key = ec.generate_private_key(ec.SECP384R1())
        hardware_id = secrets.token_bytes(self.product.hardware_id_bytes)
        facts = certificates.ChipFacts(self.product.name, hardware_id, _TCB[self.product.name])
        vcek = certificates.vcek(key.public_key(), self.ask, facts, now=now)
        return Chip((vcek, _der(self.ask), _der(self.ark)), self.crl, key, self.product, hardware_id)

    def revoke_ask(self, *, now: datetime) -> SoftwareRoot:
        """This root after it revoked its own intermediate: everything it issues from then on must be refused."""
        serial = self.ask.certificate.serial_number
        return replace(self, crl=certificates.revocation_list(self.ark, now=now, revoked=(serial,), number=2))

    def save(self, directory: Path) -> None:
        """Write the root to ``directory`` (made 0700; the keys 0600)."""
        _make_private(directory)
        for name, issuer in (("ark", self.ark), ("ask", self.ask)):
            _write(directory / f"{name}.key", _pem(issuer.key))
            _write(directory / f"{name}.der", _der(issuer))
        _write(directory / "crl.der", self.crl)
        _write(directory / "product", self.product.name.encode("ascii"))

    @classmethod
    def load(cls, directory: Path) -> SoftwareRoot:
        """The root that :meth:`save` wrote.

        Raises:
            OSError: a file is missing or unreadable.
            ValueError: a file that :meth:`save` did not write.
        """
        product = (directory / "product").read_text("ascii")
        if product not in PRODUCTS:
            raise ValueError(f"product: one of {', '.join(PRODUCTS)} expected")
        ark, ask = _load_issuer(directory, "ark"), _load_issuer(directory, "ask")
        return cls(PRODUCTS[product], ark, ask, (directory / "crl.der").read_bytes())


def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=4096)


def _raw_tcb(product: Product) -> bytes:
    raw = bytearray(8)
    offsets = dict(product.tcb_offsets)
    for name, number in _TCB[product.name]:
        raw[offsets[name]] = number
    return bytes(raw)


def _der(issuer: certificates.Issuer) -> bytes:
    return issuer.certificate.public_bytes(serialization.Encoding.DER)


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_issuer(directory: Path, name: str) -> certificates.Issuer:
    key = serialization.load_pem_private_key((directory / f"{name}.key").read_bytes(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError(f"{name}.key: an RSA key expected")
    return certificates.Issuer(certificates.load_certificate((directory / f"{name}.der").read_bytes()), key)


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)


def _write(path: Path, content: bytes) -> None:
    """Write ``path`` for its owner alone, from the first byte on: a key is never readable by others in between."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(content)
