"""Intel DCAP quotes, bytes to fields: SGX version 3, TDX versions 4 and 5. Trust zone: every TEE.

Strict: what the signatures do not cover has one spelling. Every length is used up exactly, reserved fields are zero,
the embedded certificates are re-encoded and compared, and after the quote nothing but zeros may follow (the kernel
and some clouds pad). Sources: Intel SGX ECDSA Quote Library Reference, appendix A.4; Intel TDX DCAP Quoting Library
API, appendix A.3; Intel TDX Module ABI, TDREPORT_STRUCT, TD_PARAMS; Intel SDM 3D, 38.15 (REPORT).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType

from trusted.errors import AttestationError, Reason

MAX_QUOTE_BYTES = 32 << 10
INTEL_QE_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_HEADER_BYTES = 48
_V5_BODY_HEADER_BYTES = 6
_ENCLAVE_BYTES = 384
_SIGNATURE_BYTES = 64
_KEY_BYTES = 64
_MAX_QE_AUTH_BYTES = 1024
_ECDSA_P256 = 2
_SGX_TEE, _TDX_TEE = 0x00, 0x81
_QE_REPORT_DATA = 6  # certification data: the QE's report and what certifies it
_PCK_CHAIN = 5  # certification data: the PCK's chain, PEM one after the other
_CHAIN_LENGTH = 3

# XFAM: bits that must be set, and bits that may be (Intel TDX Module ABI, XFAM_FIXED1 and XFAM_FIXED0).
_XFAM_FIXED1 = 0x3
_XFAM_FIXED0 = 0x6DBE7
TD_ATTRIBUTES: Mapping[str, int] = MappingProxyType(
    {"debug": 0, "sept_ve_disable": 28, "migratable": 29, "pks": 30, "perfmon": 63}
)
SGX_ATTRIBUTES: Mapping[str, int] = MappingProxyType(
    {
        "init": 0,
        "debug": 1,
        "mode64bit": 2,
        "provision_key": 4,
        "einittoken_key": 5,
        "cet": 6,
        "kss": 7,
        "aex_notify": 10,
    }
)


@unique
class TdBodyKind(Enum):
    """Which layout the TD's report has. The value is what Intel's type in a version 5 quote says."""

    TD_1_0 = 2
    TD_1_5 = 3

    @property
    def size_bytes(self) -> int:
        """How long the body is."""
        return 584 if self is TdBodyKind.TD_1_0 else 648


@dataclass(frozen=True, slots=True)
class TdBody:
    """The report of a TD; sizes in bytes. Registers are SHA-384.

    Attributes:
        tee_tcb_svn: 16: module minor, module major, SEAM loader, then reserved, each a security version.
        mr_seam, mr_signer_seam, seam_attributes: the TDX module (48, 48, 8).
        td_attributes, attributes: as bytes (8) and by the names of :data:`TD_ATTRIBUTES`.
        xfam: 8, the CPU features that the TD may use.
        mr_td: 48, what was launched.
        mr_config_id, mr_owner, mr_owner_config: 48 each, what the host said at launch.
        rtmrs: four of 48, what was measured since.
        report_data: 64, what the TD said.
        tee_tcb_svn2: 16, the module that runs now; TD 1.5 alone.
        mr_service_td: 48, the service TDs that are bound; TD 1.5 alone.
    """

    kind: TdBodyKind
    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    attributes: frozenset[str]
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None
    mr_service_td: bytes | None


@dataclass(frozen=True, slots=True)
class EnclaveBody:
    """The report of an SGX enclave; sizes in bytes.

    Attributes:
        cpu_svn: 16. misc_select: bit vector.
        attributes_raw, flags: ATTRIBUTES as bytes (16) and its flags by the names of :data:`SGX_ATTRIBUTES`.
        mr_enclave, mr_signer: 32 each.
        isv_prod_id, isv_svn, config_svn: 0 to 65535, the signer's numbers and the host's.
        isv_ext_prod_id, isv_family_id: 16 each. config_id: 64, the host's choice at launch.
        report_data: 64.
    """

    cpu_svn: bytes
    misc_select: int
    attributes_raw: bytes
    flags: frozenset[str]
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_ext_prod_id: bytes
    isv_family_id: bytes
    config_id: bytes
    report_data: bytes


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """What stands before the body. ``qe_svn`` and ``pce_svn`` exist in version 3 alone, and are 0 elsewhere."""

    version: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes


@dataclass(frozen=True, slots=True)
class UnverifiedQuote:
    """A well-formed quote that anybody may have written.

    Attributes:
        header, body: see there.
        qe: the report of the quoting enclave.
        chain: DER of the PCK, its CA and the root, as they are embedded.
        content: the quote without the zeros that may follow it.
    """

    header: QuoteHeader
    body: TdBody | EnclaveBody
    qe: EnclaveBody
    chain: tuple[bytes, bytes, bytes]
    content: bytes


def parse_tdx(quote: bytes) -> tuple[UnverifiedQuote, TdBody]:
    """A TDX quote of version 4 or 5, and its body once more; its sender may be lying.

    Raises:
        AttestationError: EVIDENCE_FORMAT, REPORT_VERSION, RESERVED_NOT_ZERO, GUEST_POLICY, CHAIN; the detail names the
            field.
    """
    header = _header(quote, (4, 5), _TDX_TEE)
    body_at, kind = _HEADER_BYTES, TdBodyKind.TD_1_0
    if header.version == 5:
        body_at, kind = _HEADER_BYTES + _V5_BODY_HEADER_BYTES, _kind(quote)
    end = body_at + kind.size_bytes
    body = _td_body(_slice(quote, body_at, end, "body"), kind)
    return _with_signature(quote, header, body, end), body


def parse_sgx(quote: bytes) -> tuple[UnverifiedQuote, EnclaveBody]:
    """An SGX quote of version 3, and its body once more; its sender may be lying.

    Raises:
        AttestationError: as :func:`parse_tdx`.
    """
    header = _header(quote, (3,), _SGX_TEE)
    end = _HEADER_BYTES + _ENCLAVE_BYTES
    body = _enclave(_slice(quote, _HEADER_BYTES, end, "body"), "body")
    return _with_signature(quote, header, body, end), body


def _header(quote: bytes, versions: tuple[int, ...], tee: int) -> QuoteHeader:
    if len(quote) > MAX_QUOTE_BYTES:
        raise _malformed(f"at most {MAX_QUOTE_BYTES} bytes expected")
    header = _slice(quote, 0, _HEADER_BYTES, "header")
    version = _integer(header[:2])
    if version not in versions:
        expected = " or ".join(str(known) for known in versions)
        raise AttestationError(Reason.REPORT_VERSION, f"quote.version: {expected} expected")
    if _integer(header[2:4]) != _ECDSA_P256:
        raise _malformed("attestation_key_type: ECDSA with P-256 expected")
    # Version 3 has the reserved field where the later ones say what kind of TEE they speak of: 0 is SGX in both.
    if _integer(header[4:8]) != tee:
        raise _malformed(f"tee_type: {tee:#x} expected")
    if version > 3:
        _require_zeros(header, 8, 12, "header")
    if header[12:28] != INTEL_QE_VENDOR_ID:
        raise _malformed("qe_vendor_id: Intel's expected")
    return QuoteHeader(version, _integer(header[8:10]), _integer(header[10:12]), header[12:28], header[28:48])


def _kind(quote: bytes) -> TdBodyKind:
    head = _slice(quote, _HEADER_BYTES, _HEADER_BYTES + _V5_BODY_HEADER_BYTES, "body header")
    number, size = _integer(head[:2]), _integer(head[2:])
    if number not in (TdBodyKind.TD_1_0.value, TdBodyKind.TD_1_5.value):
        raise _malformed("body_type: TD 1.0 or TD 1.5 expected")
    kind = TdBodyKind(number)
    if size != kind.size_bytes:
        raise _malformed(f"body_size: {kind.size_bytes} bytes expected")
    return kind


def _td_body(body: bytes, kind: TdBodyKind) -> TdBody:
    attributes = _flags(body[120:128], TD_ATTRIBUTES, "td_attributes")
    xfam = _integer(body[128:136])
    if xfam & _XFAM_FIXED1 != _XFAM_FIXED1 or xfam & ~_XFAM_FIXED0:
        raise AttestationError(Reason.GUEST_POLICY, "quote.xfam: the bits that TDX fixes expected")
    is_1_5 = kind is TdBodyKind.TD_1_5
    return TdBody(
        kind=kind,
        tee_tcb_svn=body[0:16],
        mr_seam=body[16:64],
        mr_signer_seam=body[64:112],
        seam_attributes=body[112:120],
        td_attributes=body[120:128],
        attributes=attributes,
        xfam=body[128:136],
        mr_td=body[136:184],
        mr_config_id=body[184:232],
        mr_owner=body[232:280],
        mr_owner_config=body[280:328],
        rtmrs=(body[328:376], body[376:424], body[424:472], body[472:520]),
        report_data=body[520:584],
        tee_tcb_svn2=body[584:600] if is_1_5 else None,
        mr_service_td=body[600:648] if is_1_5 else None,
    )


def _enclave(body: bytes, name: str) -> EnclaveBody:
    for start, end in ((20, 32), (96, 128), (160, 192), (262, 304)):
        _require_zeros(body, start, end, name)
    flags = _flags(body[48:56], SGX_ATTRIBUTES, f"{name}.attributes")
    if "init" not in flags:
        raise AttestationError(Reason.GUEST_POLICY, f"quote.{name}.attributes: an initialised enclave expected")
    return EnclaveBody(
        cpu_svn=body[0:16],
        misc_select=_integer(body[16:20]),
        isv_ext_prod_id=body[32:48],
        attributes_raw=body[48:64],
        flags=flags,
        mr_enclave=body[64:96],
        mr_signer=body[128:160],
        config_id=body[192:256],
        isv_prod_id=_integer(body[256:258]),
        isv_svn=_integer(body[258:260]),
        config_svn=_integer(body[260:262]),
        isv_family_id=body[304:320],
        report_data=body[320:384],
    )


def _flags(field: bytes, known: Mapping[str, int], name: str) -> frozenset[str]:
    value = _integer(field)
    if value & ~sum(1 << bit for bit in known.values()):
        raise AttestationError(Reason.RESERVED_NOT_ZERO, f"quote.{name}: only bits that have a name expected")
    return frozenset(flag for flag, bit in known.items() if value >> bit & 1)


def _with_signature(quote: bytes, header: QuoteHeader, body: TdBody | EnclaveBody, at: int) -> UnverifiedQuote:
    """The signature section at ``at``, each of its lengths used up to the byte."""
    start = at + 4
    end = start + _integer(_slice(quote, at, start, "signature length"))
    section = _slice(quote, start, end, "signature section")
    if any(quote[end:]):
        raise AttestationError(Reason.RESERVED_NOT_ZERO, "quote: nothing but zeros expected after the signature")
    certification = section[_SIGNATURE_BYTES + _KEY_BYTES :]
    if header.version > 3:
        certification = _certification(certification, _QE_REPORT_DATA)
    qe_at = _ENCLAVE_BYTES + _SIGNATURE_BYTES
    qe = _enclave(_slice(certification, 0, _ENCLAVE_BYTES, "qe_report"), "qe_report")
    auth_at = qe_at + 2
    auth_size = _integer(_slice(certification, qe_at, auth_at, "qe_auth_data length"))
    if auth_size > _MAX_QE_AUTH_BYTES:
        raise _malformed(f"qe_auth_data: at most {_MAX_QE_AUTH_BYTES} bytes expected")
    _slice(certification, auth_at, auth_at + auth_size, "qe_auth_data")
    chain = _chain(_certification(certification[auth_at + auth_size :], _PCK_CHAIN))
    return UnverifiedQuote(header, body, qe, chain, quote[:end])


def _certification(data: bytes, kind: int) -> bytes:
    """The content of certification data: type, length, and nothing after it."""
    head = _slice(data, 0, 6, "certification data")
    if _integer(head[:2]) != kind:
        raise _malformed(f"certification data: type {kind} expected")
    if _integer(head[2:]) != len(data) - 6:
        raise _malformed("certification data: exactly its length expected")
    return data[6:]


def _chain(pem: bytes) -> tuple[bytes, bytes, bytes]:
    """DER of three certificates from their canonical PEM: 64 columns, one kind of line end throughout.

    Quoting libraries differ in two places, and nowhere else: whether the last line ends, and whether a NUL follows.
    """
    text = pem.removesuffix(b"\0")
    line_end = b"\r\n" if b"\r\n" in text else b"\n"
    blocks = text.removesuffix(line_end).split(line_end + _BEGIN)
    if len(blocks) != _CHAIN_LENGTH or not blocks[0].startswith(_BEGIN):
        raise AttestationError(Reason.CHAIN, "quote.chain: the certificates of PCK, its CA and the root expected")
    bodies = [blocks[0].removeprefix(_BEGIN), *blocks[1:]]
    leaf, authority, root = (_der(block, line_end) for block in bodies)
    return leaf, authority, root


_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"
_COLUMNS = 64


def _der(block: bytes, line_end: bytes) -> bytes:
    """One block without its first marker. It is written anew and compared, so that it has no other spelling."""
    try:
        der = base64.b64decode(block.removesuffix(_END).replace(line_end, b""), validate=True)
    except binascii.Error:
        raise AttestationError(Reason.CHAIN, "quote.chain: certificates in PEM expected") from None
    text = base64.b64encode(der)
    lines = [text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS)]
    if block != line_end.join([b"", *lines, _END]):
        raise AttestationError(Reason.CHAIN, "quote.chain: canonical PEM with lines of 64 columns expected")
    return der


def _integer(field: bytes) -> int:
    return int.from_bytes(field, "little")


def _slice(data: bytes, start: int, end: int, name: str) -> bytes:
    if len(data) < end:
        raise _malformed(f"{name}: cut short")
    return data[start:end]


def _require_zeros(field: bytes, start: int, end: int, name: str) -> None:
    if any(field[start:end]):
        raise AttestationError(Reason.RESERVED_NOT_ZERO, f"quote.{name}[{start}:{end}]: zeros expected")


def _malformed(rule: str) -> AttestationError:
    return AttestationError(Reason.EVIDENCE_FORMAT, f"quote.{rule}")
