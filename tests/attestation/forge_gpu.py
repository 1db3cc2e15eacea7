"""GPUs that do not exist: chain, report, reference values and OCSP answers in NVIDIA's forms, under a throw-away root.

They go through the verifier of real GPUs; only the root differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha384

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from trusted.attestation.anchors import NVIDIA_DEVICE, NVIDIA_RIM
from trusted.attestation.binding import short_nonce
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.roots import TrustRoot
from trusted.wire import length_prefixed, sha256

FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
LONG_AGO = datetime(2021, 1, 1, tzinfo=UTC)
FWID = b"\xf1" * 48
SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
XMLENC = "http://www.w3.org/2001/04/xmlenc#sha384"
_COMPOSITE = x509.ObjectIdentifier("2.23.133.5.4.1")
TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1.1")
SHA384_OID = bytes.fromhex("0609608648016503040202")
BLOCKS = 64


@dataclass(frozen=True)
class Signer:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def issue(
    common_name: str,
    issuer: Signer | None,
    *,
    authority: bool = True,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    not_after: datetime = FOREVER,
    not_before: datetime = LONG_AGO,
) -> Signer:
    """A certificate by ``issuer``, or by itself."""
    key = ec.generate_private_key(ec.SECP384R1())
    signer = issuer.key if issuer else key
    builder = x509.CertificateBuilder().subject_name(name(common_name)).public_key(key.public_key())
    builder = builder.issuer_name(issuer.certificate.subject if issuer else name(common_name))
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(not_before).not_valid_after(not_after)
    builder = builder.add_extension(usage(authority), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    parent = signer.public_key()
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(parent), critical=False)
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    else:
        alternative = x509.SubjectAlternativeName([x509.DNSName("gpu.test")])
        builder = builder.add_extension(alternative, critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return Signer(builder.sign(signer, hashes.SHA384()), key)


def usage(authority: bool) -> x509.KeyUsage:
    flags = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **flags)


def composite_id(key: ec.EllipticCurvePublicKey, fwid: bytes) -> x509.UnrecognizedExtension:
    """The older DICE extension, as Hopper has it."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    content = b"\x02\x01\x01" + spki + fwid_of(fwid)
    return x509.UnrecognizedExtension(_COMPOSITE, b"\x30\x81" + bytes([len(content)]) + content)


def fwid_of(fwid: bytes) -> bytes:
    return b"\x30\x3d" + SHA384_OID + b"\x04\x30" + fwid


def tcb_info(fwid: bytes, flags: bytes = b"\x80\x00\x00\x01") -> x509.UnrecognizedExtension:
    """DiceTcbInfo, as Blackwell has it."""
    fwids = fwid_of(fwid) + fwid_of(bytes(48))
    content = b"\x80\x06NVIDIA" + b"\xa6" + bytes([len(fwids)]) + fwids + b"\x87\x05\x00" + flags
    return x509.UnrecognizedExtension(TCB_INFO, b"\x30\x81" + bytes([len(content)]) + content)


@dataclass(frozen=True)
class GpuMaker:
    """A maker of GPUs: a device hierarchy and one for reference values."""

    chip: str = "GH100"

    @cached_property
    def root(self) -> Signer:
        return issue("NVIDIA Device Identity CA", None)

    @cached_property
    def architecture(self) -> Signer:
        return issue(f"NVIDIA {self.chip} Identity", self.root)

    @cached_property
    def provisioner(self) -> Signer:
        return issue(f"NVIDIA {self.chip} Provisioner ICA 1", self.architecture)

    @cached_property
    def rim_root(self) -> Signer:
        return issue("NVIDIA CoRIM signing Root CA", None)

    @cached_property
    def rim_signer(self) -> Signer:
        end = datetime(2030, 1, 1, tzinfo=UTC)
        return issue("HCC RIM L4 Signer", self.rim_root, authority=False, not_after=end)

    @property
    def roots(self) -> tuple[TrustRoot, TrustRoot]:
        return (
            TrustRoot(EvidenceFormat.NVIDIA_GPU, NVIDIA_DEVICE, sha256(self.root.der)),
            TrustRoot(EvidenceFormat.NVIDIA_GPU, NVIDIA_RIM, sha256(self.rim_root.der)),
        )

    def make(self, **changes: object) -> Gpu:
        """A GPU of its own keys."""
        device = issue(f"{self.chip} A01 GSP BROM", self.provisioner)
        extension = composite_id(device.key.public_key(), FWID)
        leaf = issue(f"{self.chip} A01 GSP FMC LF", device, authority=False, extensions=[(extension, False)])
        return replace(Gpu(self, device, leaf), **changes)  # type: ignore[arg-type]


def measurement(index: int) -> bytes:
    return sha384(bytes([index])).digest()


@dataclass(frozen=True)
class Gpu:
    """One GPU: what its reports say, and who signs them."""

    maker: GpuMaker
    device: Signer
    leaf: Signer
    driver: str = "580.159.03"
    vbios: bytes = bytes.fromhex("0074009620000000")
    fwid: bytes | None = FWID
    feature_flag: int | None = 0
    measurements: tuple[bytes, ...] = field(default_factory=lambda: tuple(measurement(i) for i in range(BLOCKS)))
    parts: tuple[tuple[str, bytes], ...] = ()

    @property
    def chain(self) -> tuple[Signer, ...]:
        maker = self.maker
        return (self.leaf, self.device, maker.provisioner, maker.architecture, maker.root)

    def attest(self, challenge: bytes) -> Evidence:
        """Evidence over 64 bytes of challenge."""
        return self.evidence(self.report(short_nonce(challenge)))

    def evidence(self, report: bytes) -> Evidence:
        chain = tuple(signer.der for signer in self.chain)
        return Evidence(EvidenceFormat.NVIDIA_GPU, report, chain, parts=tuple(sorted(self.parts)))

    def report(self, nonce: bytes) -> bytes:
        """The SPDM exchange over ``nonce``, 32 bytes."""
        return self.sign(bytes([0x11, 0xE0, 0x01, 0xFF]) + nonce + b"\0" + self.response())

    def response(self) -> bytes:
        record = b"".join(
            bytes([place + 1, 1, 51, 0, 1, 48, 0]) + value for place, value in enumerate(self.measurements)
        )
        opaque = b"".join(tlv(kind, value) for kind, value in self.opaque())
        header = bytes([0x11, 0x60, 0, 0, len(self.measurements)]) + len(record).to_bytes(3, "little")
        return header + record + b"\x5a" * 32 + len(opaque).to_bytes(2, "little") + opaque

    def opaque(self) -> list[tuple[int, bytes]]:
        fields = [(3, self.driver.encode() + b"\0"), (6, self.vbios), (14, b"\xb1\x03\0\0"), (15, b"882\0\0\0\0\0\0")]
        fields += [(17, b"1010\0"), (18, b"0200\0"), (11, b"\x55")]
        fields += [] if self.fwid is None else [(20, self.fwid)]
        return fields + ([] if self.feature_flag is None else [(36, self.feature_flag.to_bytes(2, "little"))])

    def sign(self, signed: bytes) -> bytes:
        r, s = decode_dss_signature(self.leaf.key.sign(signed, ec.ECDSA(hashes.SHA384())))
        return signed + r.to_bytes(48, "big") + s.to_bytes(48, "big")

    def with_leaf(self, *extensions: x509.ExtensionType, **changes: object) -> Gpu:
        """The same GPU with another firmware certificate."""
        pairs = [(extension, False) for extension in extensions]
        leaf = issue(f"{self.maker.chip} A01 GSP FMC LF", self.device, authority=False, extensions=pairs)
        return replace(self, leaf=leaf, **changes)  # type: ignore[arg-type]

    def with_parts(self, **parts: bytes) -> Gpu:
        """The same GPU whose evidence brings ``rim_driver``, ``rim_vbios`` or ``ocsp`` along."""
        named = {key.replace("_", "-"): value for key, value in parts.items()}
        return replace(self, parts=tuple(sorted((dict(self.parts) | named).items())))

    def fully_vouched(self, now: datetime) -> Gpu:
        """With both manifests and good answers about the whole chain."""
        return self.with_parts(
            rim_driver=rim(
                self.maker, self.driver, {7: [self.measurements[7]], 21: [bytes(48), self.measurements[21]]}
            ),
            rim_vbios=rim(self.maker, "96.00.74.00.20", {1: [self.measurements[1]]}),
            ocsp=ocsp_part(self, now),
        )


def tlv(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value


def rim(
    maker: GpuMaker,
    version: str,
    measurements: dict[int, list[bytes]],
    *,
    chip: str | None = None,
    signer: Signer | None = None,
    chain: Sequence[Signer] | None = None,
) -> bytes:
    """A signed SWID tag."""
    from lxml import etree
    from signxml.algorithms import DigestAlgorithm, SignatureMethod
    from signxml.signer import XMLSigner

    root = etree.Element(f"{{{SWID}}}SoftwareIdentity", nsmap={None: SWID, "ns2": XMLENC}, tagId="ab" * 8)
    etree.SubElement(root, f"{{{SWID}}}Meta", colloquialVersion=version, product=chip or maker.chip)
    payload = etree.SubElement(root, f"{{{SWID}}}Payload")
    for index in range(BLOCKS):
        alternatives = measurements.get(index, [bytes(48)])
        attributes = {"type": "Measurement", "index": str(index), "active": str(index in measurements)}
        attributes["alternatives"] = str(len(alternatives))
        attributes |= {f"{{{XMLENC}}}Hash{place}": value.hex() for place, value in enumerate(alternatives)}
        etree.SubElement(payload, f"{{{SWID}}}Resource", attributes)
    signer = signer or maker.rim_signer
    chain = [signer, maker.rim_root] if chain is None else chain
    xml = XMLSigner(signature_algorithm=SignatureMethod.ECDSA_SHA384, digest_algorithm=DigestAlgorithm.SHA384)
    signed = xml.sign(root, key=signer.key, cert=[item.certificate for item in chain])
    return bytes(etree.tostring(signed))


def answer(
    certificate: x509.Certificate,
    issuer: Signer,
    now: datetime,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    reason: x509.ReasonFlags | None = None,
    responder: Signer | None = None,
) -> bytes:
    """An OCSP response about ``certificate``, good for a day."""
    responder = responder or issuer
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=certificate,
        issuer=issuer.certificate,
        algorithm=hashes.SHA384(),
        cert_status=status,
        this_update=now - timedelta(hours=1),
        next_update=now + timedelta(days=1),
        revocation_time=now - timedelta(days=9) if revoked else None,
        revocation_reason=reason,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, responder.certificate)
    if responder is not issuer:
        builder = builder.certificates([responder.certificate])
    return builder.sign(responder.key, hashes.SHA384()).public_bytes(Encoding.DER)


def answers(gpu: Gpu, now: datetime) -> list[bytes]:
    """Good ones about device, provisioner and architecture."""
    chain = gpu.chain
    return [answer(chain[place].certificate, chain[place + 1], now) for place in (1, 2, 3)]


def ocsp_part(gpu: Gpu, now: datetime) -> bytes:
    return length_prefixed(*answers(gpu, now))
