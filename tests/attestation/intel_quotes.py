"""Well-formed Intel quotes that nobody signed, field by field, for tests of the parser; and claims made of them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from datetime import UTC, datetime

from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.dcap import INTEL_QE_VENDOR_ID, parse_sgx, parse_tdx
from trusted.attestation.intel_claims import (
    IntelCollateral,
    IntelPlatform,
    Pck,
    PckFlag,
    SgxClaims,
    SgxType,
    TcbLevel,
    TcbStatus,
    TcbVerdict,
    TdxClaims,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
HOST_DATA = b"\x33" * 32
CHAIN = (b"leaf " * 40, b"authority " * 30, b"root " * 50)
# Where the fields of a TD's report begin, in the body.
TD_FIELDS = {
    "tee_tcb_svn": 0,
    "mr_seam": 16,
    "mr_signer_seam": 64,
    "seam_attributes": 112,
    "td_attributes": 120,
    "xfam": 128,
    "mr_td": 136,
    "mr_config_id": 184,
    "mr_owner": 232,
    "mr_owner_config": 280,
    "rtmr0": 328,
    "rtmr1": 376,
    "rtmr2": 424,
    "rtmr3": 472,
    "report_data": 520,
    "tee_tcb_svn2": 584,
    "mr_service_td": 600,
}


def pem(ders: Sequence[bytes] = CHAIN, *, line_end: bytes = b"\n", last: bytes = b"\n\0") -> bytes:
    """Certificates one after the other, as quoting libraries write them."""
    blocks = []
    for der in ders:
        text = base64.b64encode(der)
        lines = [text[at : at + 64] for at in range(0, len(text), 64)]
        blocks.append(line_end.join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----"]))
    return line_end.join(blocks) + last


def td_body(*, td_1_5: bool = False) -> bytes:
    """A TD that every strict policy takes, if its values are listed."""
    body = bytearray(648 if td_1_5 else 584)

    def put(field: str, content: bytes) -> None:
        body[TD_FIELDS[field] : TD_FIELDS[field] + len(content)] = content

    put("tee_tcb_svn", bytes([11, 1, 4]))
    put("mr_seam", b"\x5e" * 48)
    put("td_attributes", (1 << 28).to_bytes(8, "little"))
    put("xfam", (0x602E7).to_bytes(8, "little"))
    put("mr_td", b"\x11" * 48)
    put("mr_config_id", HOST_DATA)
    for number in range(3):
        put(f"rtmr{number}", bytes([0xA0 + number]) * 48)
    put("report_data", REPORT_DATA)
    if td_1_5:
        put("tee_tcb_svn2", bytes([13, 1, 4]))
    return bytes(body)


def enclave_body(*, flags: int = 0x5) -> bytes:
    """An enclave; ``flags`` are ATTRIBUTES without XFRM."""
    body = bytearray(384)
    body[0:16] = b"\x0b" * 16
    body[48:64] = flags.to_bytes(8, "little") + (0xE7).to_bytes(8, "little")
    body[64:96] = b"\x11" * 32
    body[128:160] = b"\x51" * 32
    body[256:262] = struct.pack("<HHH", 7, 9, 3)
    body[320:384] = REPORT_DATA
    return bytes(body)


def header(version: int, *, tee: int | None = None, svns: bytes = bytes(4)) -> bytes:
    """Version, key type, TEE, security versions, vendor, user data."""
    kind = (0 if version == 3 else 0x81) if tee is None else tee
    return struct.pack("<HHI", version, 2, kind) + svns + INTEL_QE_VENDOR_ID + bytes(20)


def certification(kind: int, content: bytes) -> bytes:
    """Certification data."""
    return struct.pack("<HI", kind, len(content)) + content


def signature(version: int, *, chain: bytes | None = None, auth: bytes = bytes(32), qe: bytes | None = None) -> bytes:
    """The signature section with its length; nothing in it is a signature."""
    report = enclave_body() if qe is None else qe
    inner = report + b"\x02" * 64 + struct.pack("<H", len(auth)) + auth
    inner += certification(5, pem() if chain is None else chain)
    section = b"\x03" * 64 + b"\x04" * 64 + (inner if version == 3 else certification(6, inner))
    return struct.pack("<I", len(section)) + section


def tdx_quote(version: int = 4, body: bytes | None = None) -> bytes:
    """A TDX quote; in version 5 of the body's own kind."""
    content = td_body(td_1_5=version == 5) if body is None else body
    kind = b"" if version == 4 else struct.pack("<HI", 3 if len(content) == 648 else 2, len(content))
    return header(version) + kind + content + signature(version)


def sgx_quote(body: bytes | None = None) -> bytes:
    """An SGX quote."""
    return header(3, svns=struct.pack("<HH", 10, 15)) + (enclave_body() if body is None else body) + signature(3)


def platform_of(quote: bytes) -> IntelPlatform:
    """An up-to-date platform beneath ``quote``."""
    unverified = parse_sgx(quote)[0] if quote[0] == 3 else parse_tdx(quote)[0]
    level = TcbLevel(TcbStatus.UP_TO_DATE, datetime(2024, 11, 13, tzinfo=UTC))
    pck = Pck(
        authority="platform",
        ppid=b"\x77" * 16,
        platform_instance_id=b"\x78" * 16,
        fmspc=bytes.fromhex("90c06f000000"),
        pce_id=bytes(2),
        cpu_svn=b"\x04" * 16,
        pce_svn=13,
        sgx_type=SgxType.SCALABLE,
        dynamic_platform=PckFlag.OFF,
        cached_keys=PckFlag.OFF,
        smt=PckFlag.OFF,
    )
    dates = datetime(2026, 2, 18, tzinfo=UTC), datetime(2026, 3, 20, tzinfo=UTC)
    return IntelPlatform(
        header=unverified.header,
        qe=unverified.qe,
        pck=pck,
        tcb=TcbVerdict(TcbStatus.UP_TO_DATE, (), level, level, evaluation=18),
        collateral=IntelCollateral(*dates, *dates, pck_crl_number=1, root_crl_number=1),
    )


def tdx_claims(version: int = 5) -> TdxClaims:
    """Claims as a verifier would make them of :func:`tdx_quote`."""
    quote = tdx_quote(version)
    return TdxClaims(EvidenceFormat.TDX, parse_tdx(quote)[1], platform_of(quote), None)


def sgx_claims() -> SgxClaims:
    """Claims as a verifier would make them of :func:`sgx_quote`."""
    quote = sgx_quote()
    return SgxClaims(EvidenceFormat.SGX, parse_sgx(quote)[1], platform_of(quote))
