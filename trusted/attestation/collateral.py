"""Endorsements: what the vendors sign about their platforms, when, and that it never goes backwards.

Trust zone: every TEE. Whoever brings evidence also chooses its endorsements (revocation lists, Intel's collateral, OCSP
responses). All are signed and in their validity, or nothing verified; but an older one that is still valid may hide a
revocation or a recovery. ``Floors`` remembers the newest that were seen (attestation.md 6.4).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, unique
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import ocsp

from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.policies.rules import read_time
from trusted.errors import AttestationError, Reason, WireError
from trusted.wire import sha256

MAX_ENDORSEMENT_BYTES = 256 << 10
_COMMON_NAME = x509.NameOID.COMMON_NAME
_FMSPC = re.compile(r"[0-9A-Fa-f]{12}")
_TEE = re.compile(r"[A-Z_]{1,16}")
_MAX_MARKS = 1 << 14
_REMEMBERED_LISTS = 32  # of 64 KiB at most
_PEM = b"-----BEGIN "
_SWID = b"SoftwareIdentity"
_TAG_ID = re.compile(rb'tagId="([^"]{1,128})"')
_X509 = re.compile(rb"<(?:[A-Za-z0-9]+:)?X509Certificate>([A-Za-z0-9+/=\s]{1,16384})<")
_NOT_WELL_FORMED = (ValueError, TypeError, KeyError, NotImplementedError, x509.DuplicateExtension)


@unique
class EndorsementKind(Enum):
    """What a vendor says, in this project's spelling."""

    CRL = "crl"
    TCB_INFO = "tcb-info"
    QE_IDENTITY = "qe-identity"
    OCSP = "ocsp"
    JWKS = "jwks"
    RIM = "rim"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Endorsement:
    """One statement of a vendor, as it describes itself.

    Attributes:
        kind: what it is about.
        name: who issued it, or whom it is about: the issuer's common name, the TEE and FMSPC, the serial number.
        issued, expires: its dates; None where it has none.
        number: what counts up with each new one (CRL number, tcbEvaluationDataNumber); None where nothing does.
    """

    kind: EndorsementKind
    name: str
    issued: datetime | None = None
    expires: datetime | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest that was seen: its number, and its date of issue."""

    number: int | None
    issued: datetime | None


_Key = tuple[EndorsementKind, str, bytes]


@dataclass(frozen=True, slots=True)
class Floors:
    """The newest endorsements that were seen with evidence that held. A frozen value; ``raised_by`` gives the next.

    Numbers are everybody's: who has seen revocation list 7 accepts no list 6 from anyone. Dates of numbered statements
    are remembered for each machine, for the vendor signs the same levels anew every day: two sites that fetched them on
    different days are both right, and one site that goes back is not. Dates of statements without a number, which say
    nothing else about their order, are everybody's.
    """

    marks: Mapping[_Key, Mark] = field(default_factory=lambda: MappingProxyType({}))

    def require(self, endorsements: Iterable[Endorsement], machine: bytes = b"") -> None:
        """None of ``endorsements``, which came from ``machine`` (its hardware id), is older than what was seen.

        Raises:
            AttestationError: COLLATERAL_ROLLBACK.
        """
        _require(self.marks, endorsements, machine)

    def raised_by(self, endorsements: Iterable[Endorsement], machine: bytes = b"") -> Floors:
        """These floors after ``endorsements`` were seen: higher or the same, never lower.

        At most 16384 are remembered; then the first that was learned goes, so that memory cannot be exhausted.
        """
        marks = dict(self.marks)
        _raise(marks, endorsements, machine)
        return Floors(MappingProxyType(marks))


class FloorKeeper:
    """The one memory of a process: what is seen is remembered until it ends. A restart forgets; nothing else does.

    It holds what :class:`Floors` would, in place: a copy for every admission would cost the more, the more there were.
    """

    def __init__(self) -> None:
        self._marks: dict[_Key, Mark] = {}

    @property
    def floors(self) -> Floors:
        """What was seen so far."""
        return Floors(MappingProxyType(dict(self._marks)))

    def see(self, endorsements: Iterable[Endorsement], machine: bytes) -> None:
        """Refuse what goes back; remember the rest.

        Raises:
            AttestationError: COLLATERAL_ROLLBACK; nothing is remembered then.
        """
        seen = tuple(endorsements)
        _require(self._marks, seen, machine)
        _raise(self._marks, seen, machine)


def _require(marks: Mapping[_Key, Mark], endorsements: Iterable[Endorsement], machine: bytes) -> None:
    for endorsement in endorsements:
        for key, mark in _marks(endorsement, machine):
            seen = marks.get(key)
            if seen is not None and _is_below(mark, seen):
                what = f"{endorsement.kind.value} of {endorsement.name:.80}"
                detail = f"{what}: older than one that was seen before; fetch the current one"
                raise AttestationError(Reason.COLLATERAL_ROLLBACK, detail)


def _raise(marks: dict[_Key, Mark], endorsements: Iterable[Endorsement], machine: bytes) -> None:
    """Note ``endorsements`` in ``marks``, as the newest of them; the first that was learned goes where one too many."""
    for endorsement in endorsements:
        for key, mark in _marks(endorsement, machine):
            seen = marks.pop(key, None)
            marks[key] = mark if seen is None else _higher(mark, seen)
    while len(marks) > _MAX_MARKS:
        marks.pop(next(iter(marks)))


def _marks(endorsement: Endorsement, machine: bytes) -> Iterable[tuple[_Key, Mark]]:
    kind, name = endorsement.kind, endorsement.name
    if endorsement.number is not None:
        yield (kind, name, b""), Mark(endorsement.number, None)
        if machine:
            yield (kind, name, machine), Mark(None, endorsement.issued)
    elif endorsement.issued is not None:
        yield (kind, name, b""), Mark(None, endorsement.issued)


def _is_below(mark: Mark, seen: Mark) -> bool:
    if seen.number is not None and (mark.number is None or mark.number < seen.number):
        return True
    return seen.issued is not None and (mark.issued is None or mark.issued < seen.issued)


def _higher(mark: Mark, seen: Mark) -> Mark:
    return seen if _is_below(mark, seen) else mark


def endorsements_of(evidence: Evidence) -> tuple[Endorsement, ...]:
    """What endorses ``evidence``, which must have been verified: only then did a vendor say any of it.

    Parts that its format's verifier does not check are not looked at, whatever they claim to be.

    Raises:
        AttestationError: EVIDENCE_FORMAT: something that verified does not read; a bug on one of the two sides.
    """
    found = list(_read_crl_once(evidence.crl)) if evidence.crl else []
    for part, read in _PARTS.get(evidence.format.value, ()):
        if content := evidence.part(part):
            found.extend(read(content))
    return tuple(found)


def read_crl(der: bytes) -> tuple[Endorsement, ...]:
    """The X.509 revocation list in ``der``. Its signature is not checked here."""
    try:
        crl = x509.load_der_x509_crl(der)
        numbers = [item.value.crl_number for item in crl.extensions if isinstance(item.value, x509.CRLNumber)]
        name = _common_name(crl.issuer)
        dates = crl.last_update_utc, crl.next_update_utc
    except _NOT_WELL_FORMED:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "CRL: an X.509 revocation list in DER expected") from None
    return (Endorsement(EndorsementKind.CRL, name, *dates, numbers[0] if numbers else None),)


# Whole sites come with the same list, which may be long. What is remembered depends on the bytes alone.
_read_crl_once = lru_cache(maxsize=_REMEMBERED_LISTS)(read_crl)


def read_intel(content: bytes) -> tuple[Endorsement, ...]:
    """Intel's collateral in the JSON form of ``QuoteCollateralV3``. No signature is checked here."""
    try:
        collateral = json.loads(content)
        tcb_info, qe_identity = json.loads(collateral["tcb_info"]), json.loads(collateral["qe_identity"])
        lists = [read_crl(bytes.fromhex(collateral[key]))[0] for key in ("root_ca_crl", "pck_crl")]
        fmspc, tee, qe = str(tcb_info["fmspc"]), str(tcb_info.get("id", "SGX")), str(qe_identity["id"])
        if not _FMSPC.fullmatch(fmspc) or not _TEE.fullmatch(tee) or not _TEE.fullmatch(qe):
            raise ValueError("names of Intel's form expected")
        named = f"{tee} {fmspc.lower()}"
        return (
            _intel(EndorsementKind.TCB_INFO, named, tcb_info),
            _intel(EndorsementKind.QE_IDENTITY, qe, qe_identity),
            *lists,
        )
    except (*_NOT_WELL_FORMED, AttributeError, RecursionError, WireError):
        raise AttestationError(Reason.EVIDENCE_FORMAT, "collateral: Intel's QuoteCollateralV3 expected") from None


def _intel(kind: EndorsementKind, name: str, value: Mapping[str, Any]) -> Endorsement:
    number = value["tcbEvaluationDataNumber"]
    if type(number) is not int:
        raise ValueError("a number expected")
    issued, expires = (read_time(str(value[key]), key) for key in ("issueDate", "nextUpdate"))
    return Endorsement(kind, name, issued, expires, number)


def read_ocsp(der: bytes) -> tuple[Endorsement, ...]:
    """One OCSP response in DER. Its signature is not checked here."""
    try:
        response = ocsp.load_der_ocsp_response(der)
        name = f"serial {response.serial_number:x}"
        dates = response.this_update_utc, response.next_update_utc
    except _NOT_WELL_FORMED:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "OCSP: a response in DER expected") from None
    return (Endorsement(EndorsementKind.OCSP, name, *dates),)


def _read_ocsp_list(part: bytes) -> tuple[Endorsement, ...]:
    """Responses, each after its length as four big-endian bytes."""
    found: list[Endorsement] = []
    position = 0
    while position < len(part):
        start = position + 4
        end = start + int.from_bytes(part[position:start], "big")
        found.extend(read_ocsp(part[start:end]))
        position = end
    return tuple(found)


def read_certificates(content: bytes) -> tuple[Endorsement, ...]:
    """The X.509 certificates in ``content``, DER or PEM, each named by its subject and its key's digest."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # AMD's serial number 0
            if content.lstrip().startswith(_PEM):
                found = x509.load_pem_x509_certificates(content)
            else:
                found = [x509.load_der_x509_certificate(content)]
            return tuple(_certificate(certificate) for certificate in found)
    except _NOT_WELL_FORMED:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "certificates: X.509 in DER or PEM expected") from None


def _certificate(certificate: x509.Certificate) -> Endorsement:
    key = sha256(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    name = f"{_common_name(certificate.subject)} {key.hex()[:16]}"
    dates = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Endorsement(EndorsementKind.CERTIFICATE, name, *dates)


def read_rim(xml: bytes) -> tuple[Endorsement, ...]:
    """A reference integrity manifest (SWID tag). It ends when the first certificate of its signer does.

    Nothing of the XML is interpreted but its tag's name and the certificates: it is parsed where it is verified.
    """
    tag = _TAG_ID.search(xml)
    blocks = _X509.findall(xml)
    if _SWID not in xml or tag is None or not blocks:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "RIM: a signed SWID tag expected")
    pem = b"".join(_PEM + b"CERTIFICATE-----\n" + block.strip() + b"\n-----END CERTIFICATE-----\n" for block in blocks)
    expires = min(item.expires for item in read_certificates(pem) if item.expires is not None)
    return (Endorsement(EndorsementKind.RIM, tag[1].decode("ascii", "replace"), None, expires),)


def read_jwks(content: bytes) -> tuple[Endorsement, ...]:
    """A set of JSON Web Keys, which has neither dates nor an issuer of its own."""
    try:
        keys = json.loads(content)["keys"]
        if not isinstance(keys, list) or not all(isinstance(key["kid"], str) for key in keys) or not keys:
            raise ValueError("keys with names expected")
    except (*_NOT_WELL_FORMED, RecursionError):
        raise AttestationError(Reason.EVIDENCE_FORMAT, "JWKS: a JSON object with keys expected") from None
    return (Endorsement(EndorsementKind.JWKS, "confidential-space"),)


def recognise(content: bytes) -> tuple[Endorsement, ...]:
    """What the file ``content`` says, whichever kind it is. Nothing is verified.

    Raises:
        WireError: TOO_LARGE.
        AttestationError: EVIDENCE_FORMAT: nothing that this release knows.
    """
    if len(content) > MAX_ENDORSEMENT_BYTES:
        raise WireError(Reason.TOO_LARGE, f"endorsement: at most {MAX_ENDORSEMENT_BYTES} bytes")
    for read in (read_crl, read_intel, read_certificates, read_ocsp, read_rim, read_jwks):
        try:
            return read(content)
        except AttestationError:
            continue
    kinds = "a CRL, Intel's collateral, certificates, an OCSP response, a RIM or a JWKS"
    raise AttestationError(Reason.EVIDENCE_FORMAT, f"endorsement: {kinds} expected")


def _common_name(name: x509.Name) -> str:
    values = name.get_attributes_for_oid(_COMMON_NAME)
    return str(values[0].value) if values else name.rfc4514_string()


# By format: the parts whose signatures its verifier checks, and how each is read.
_PARTS = MappingProxyType(
    {
        EvidenceFormat.TDX.value: (("collateral", read_intel),),
        EvidenceFormat.SGX.value: (("collateral", read_intel),),
        "nvidia-gpu": (("ocsp", _read_ocsp_list),),
    }
)


def days_left(endorsement: Endorsement, now: datetime) -> int | None:
    """Whole days until ``endorsement`` ends, negative once it has; None when it does not end."""
    return None if endorsement.expires is None else (endorsement.expires.astimezone(UTC) - now).days
