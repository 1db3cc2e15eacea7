"""Intel's collateral as it travels with a quote: read once, and its dates held against now. Trust zone: every TEE.

Whoever attests brings it along and may lie; dcap-qvl checks its signatures for every quote. What is checked here can
only refuse, and says more plainly why: dcap-qvl calls every fault of a chain by one name.
Sources: Intel PCS API, version 4; RFC 5280; attestation.md 1.2 and 6.4.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from cryptography import x509

from trusted.errors import AttestationError, Reason

MAX_COLLATERAL_BYTES = 256 << 10
_CACHED_COLLATERALS = 8
_TEXT_FIELDS = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain", "tcb_info", "qe_identity")
_HEX_FIELDS = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
# Some tools add the PCK's chain. The quote carries it, and nothing else may replace it.
_IGNORED_FIELDS = frozenset({"pck_certificate_chain"})


_NOT_WELL_FORMED = (ValueError, TypeError, x509.InvalidVersion)


@dataclass(frozen=True, slots=True)
class ClaimedCertificate:
    """A certificate whose signature nobody has checked yet.

    Attributes:
        role: how errors name it.
        issuer: the common name of its issuer.
    """

    role: str
    issuer: str
    serial: int
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class ClaimedList:
    """A revocation list whose signature nobody has checked yet."""

    this_update: datetime
    next_update: datetime
    revoked: frozenset[int]


@dataclass(frozen=True, slots=True)
class ClaimedCollateral:
    """Intel's statements as they came along.

    Attributes:
        native: dcap-qvl's own form of them.
        tcb_issued, tcb_next, qe_issued, qe_next: from when to when the two statements hold.
        root_crl, pck_crl: the lists of the root and of the PCK's CA.
    """

    native: Any
    tcb_issued: datetime
    tcb_next: datetime
    qe_issued: datetime
    qe_next: datetime
    root_crl: ClaimedList
    pck_crl: ClaimedList

    @property
    def not_after(self) -> datetime:
        """When the first of them ends."""
        return min(self.tcb_next, self.qe_next, self.root_crl.next_update, self.pck_crl.next_update)


def library() -> Any:
    """dcap-qvl, which an image has only if it needs it.

    Raises:
        AttestationError: EVIDENCE_FORMAT, it is not installed.
    """
    try:
        import dcap_qvl
    except ImportError:
        raise AttestationError(
            Reason.EVIDENCE_FORMAT, "evidence.format: TDX and SGX are not read here: install the extra `tdx`"
        ) from None
    return dcap_qvl


def read(part: bytes) -> ClaimedCollateral:
    """The statements in ``part``, JSON as Intel's clients write it; what it quotes keeps its exact text.

    Raises:
        AttestationError: EVIDENCE_FORMAT, absent, too large or something else; CHAIN, a list is none.
    """
    if not part:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "evidence.parts: collateral expected: Intel's, as JSON")
    if len(part) > MAX_COLLATERAL_BYTES:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"collateral: at most {MAX_COLLATERAL_BYTES} bytes expected")
    library()
    return _read(part)


@lru_cache(maxsize=_CACHED_COLLATERALS)
def _read(part: bytes) -> ClaimedCollateral:
    """Depends on its argument alone, so it is remembered: a site's machines share it, and reading costs as much as
    verifying. Nothing in it is believed before dcap-qvl has checked its signatures, which happens every time."""
    try:
        fields = json.loads(part, object_pairs_hook=_distinct)
        if not isinstance(fields, dict) or set(fields) - _IGNORED_FIELDS != {*_TEXT_FIELDS, *_HEX_FIELDS}:
            raise ValueError
        statements = json.loads(fields["tcb_info"]), json.loads(fields["qe_identity"])
        octets = {name: bytes.fromhex(fields[name]) for name in _HEX_FIELDS}
        native = library().QuoteCollateralV3(**{name: fields[name] for name in _TEXT_FIELDS}, **octets)
        dates = [read_time(item[name]) for item in statements for name in ("issueDate", "nextUpdate")]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise AttestationError(Reason.EVIDENCE_FORMAT, "collateral: Intel's statements as JSON expected") from None
    tcb_issued, tcb_next, qe_issued, qe_next = dates
    return ClaimedCollateral(
        native=native,
        tcb_issued=tcb_issued,
        tcb_next=tcb_next,
        qe_issued=qe_issued,
        qe_next=qe_next,
        root_crl=_read_list(octets["root_ca_crl"], "root_ca_crl"),
        pck_crl=_read_list(octets["pck_crl"], "pck_crl"),
    )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def read_time(text: str) -> datetime:
    """A time as Intel writes it.

    Raises:
        ValueError: another form.
    """
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _read_list(der: bytes, name: str) -> ClaimedList:
    try:
        crl = x509.load_der_x509_crl(der)
        next_update = crl.next_update_utc
        revoked = frozenset(entry.serial_number for entry in crl)
        this_update = crl.last_update_utc
    except _NOT_WELL_FORMED:
        raise AttestationError(Reason.CHAIN, f"collateral.{name}: a revocation list in DER expected") from None
    if next_update is None:
        raise AttestationError(Reason.CHAIN, f"collateral.{name}: a date for the next list expected")
    return ClaimedList(this_update, next_update, revoked)


def read_chain(ders: tuple[bytes, bytes, bytes]) -> tuple[ClaimedCertificate, ...]:
    """PCK, its CA and the root, of a quote; its sender may be lying.

    Raises:
        AttestationError: CHAIN, one is no certificate.
    """
    try:
        with warnings.catch_warnings():
            # cryptography warns of serial numbers and names that only damaged certificates have: they are refused
            # anyway, and nobody may fill our standard error.
            warnings.simplefilter("ignore")
            return tuple(_read_certificate(der, role) for der, role in zip(ders, _ROLES, strict=True))
    except _NOT_WELL_FORMED:
        raise AttestationError(Reason.CHAIN, "quote.chain: X.509 certificates in DER expected") from None


_ROLES = ("PCK", "CA of the PCK", "root")


def _read_certificate(der: bytes, role: str) -> ClaimedCertificate:
    certificate = x509.load_der_x509_certificate(der)
    (issuer,) = certificate.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return ClaimedCertificate(
        role=role,
        issuer=str(issuer.value),
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def require_current(collateral: ClaimedCollateral, chain: tuple[ClaimedCertificate, ...], now: datetime) -> None:
    """``now`` lies in the validity of statements, lists and of ``chain``; neither PCK nor CA is revoked.

    Raises:
        AttestationError: CERT_EXPIRED, CERT_NOT_YET_VALID, CRL_STALE, REVOKED.
    """
    for certificate in chain:
        if now < certificate.not_before:
            raise AttestationError(Reason.CERT_NOT_YET_VALID, f"chain: the {certificate.role} is not valid yet")
        if now > certificate.not_after:
            raise AttestationError(Reason.CERT_EXPIRED, f"chain: the {certificate.role} is no longer valid")
    for name, issued in (("tcb_info", collateral.tcb_issued), ("qe_identity", collateral.qe_issued)):
        if now < issued:
            raise AttestationError(Reason.CERT_NOT_YET_VALID, f"collateral.{name}: issued after now; check the clock")
    for name, end in (("tcb_info", collateral.tcb_next), ("qe_identity", collateral.qe_next)):
        if now > end:
            raise AttestationError(Reason.CERT_EXPIRED, f"collateral.{name}: no longer valid; fetch current collateral")
    for name, crl in (("root_ca_crl", collateral.root_crl), ("pck_crl", collateral.pck_crl)):
        if now < crl.this_update:
            raise AttestationError(Reason.CERT_NOT_YET_VALID, f"collateral.{name}: issued after now; check the clock")
        if now >= crl.next_update:  # as dcap-qvl has it: the next list is due
            raise AttestationError(Reason.CRL_STALE, f"collateral.{name}: no longer valid; fetch current collateral")
    pck, authority, _ = chain
    if pck.serial in collateral.pck_crl.revoked or authority.serial in collateral.root_crl.revoked:
        raise AttestationError(Reason.REVOKED, "chain: Intel has revoked the PCK or its CA")
