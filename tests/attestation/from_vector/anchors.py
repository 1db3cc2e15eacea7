"""The vendors' anchors: no evidence, but the roots that evidence is verified under, and AMD's revocation lists.

A case speaks of chains, or of one product's list, or of every list (``what``). A list that is stale holds no more.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trusted.attestation.claims import CrlStatus
from trusted.attestation.verify import certificates
from trusted.attestation.verify.certificates import Certificate, RevocationList
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

_PEM = b"-----BEGIN"
_CHAIN = "_ask_ark.pem"
_LIST = "crl_ark_"
# Part of a file's name, and the key under which a provenance file lists that root's digest.
_ROOTS = (("Device", "device_root_sha256"), ("RIM", "rim_root_sha256"))


def judge(folder: Path, case: dict[str, Any], now: datetime) -> None:
    """What the case speaks of holds at ``now``.

    Raises:
        AttestationError: it does not.
    """
    what = str(case.get("what", "")).lower()
    if not what.rpartition("crl")[1]:
        for path in _chains(folder):
            ask, ark = _read(path)
            for certificate in (ark, ask):
                certificates.require_issued_by(certificate, ark)
                certificates.require_valid_at(certificate, now)
        return
    lists = sorted(folder.glob(f"{_LIST}*"))
    for path in [path for path in lists if _product(path) in what] or lists:
        if certificates.crl_claim(_revocation_list(path), now).status is not CrlStatus.GOOD:
            raise AttestationError(Reason.CRL_STALE, "CRL: no longer valid")


def found(folder: Path) -> dict[str, Any]:
    """What is read from the files, in the words of the provenance files."""
    facts: dict[str, Any] = {}
    chains = {path.name.removesuffix(_CHAIN): sha256(_ders(path)[-1]).hex() for path in _chains(folder)}
    if chains:
        facts["ark_sha256"] = chains
    for path in folder.glob(f"{_LIST}*"):
        revoked = sorted(_revocation_list(path).revoked)
        facts[f"{_product(path)}_crl_revoked_serials"] = [hex(serial) for serial in revoked]
    for path in _single_certificates(folder):
        digest = sha256(_ders(path)[0]).hex()
        facts |= {"sha256": digest, "der_sha256": digest}
        facts |= {key: digest for part, key in _ROOTS if part in path.name}
    return facts


def root_digests(folder: Path) -> list[bytes]:
    """SHA-256 of every root certificate in the folder, which the code must have pinned."""
    chains = [sha256(_ders(path)[-1]) for path in _chains(folder)]
    return chains + [sha256(_ders(path)[0]) for path in _single_certificates(folder)]


def _chains(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{_CHAIN}"))


def _single_certificates(folder: Path) -> list[Path]:
    others = {"provenance.json", *(path.name for path in _chains(folder))}
    return [path for path in sorted(folder.iterdir()) if path.name not in others and _LIST not in path.name]


def _ders(path: Path) -> list[bytes]:
    content = path.read_bytes()
    if not content.startswith(_PEM):
        return [content]
    return [item.public_bytes(Encoding.DER) for item in x509.load_pem_x509_certificates(content)]


def _read(path: Path) -> tuple[Certificate, Certificate]:
    ask, ark = _ders(path)
    return certificates.read_certificate(ask, "ASK"), certificates.read_certificate(ark, "ARK")


def _product(path: Path) -> str:
    return path.name.removeprefix(_LIST).partition("_")[0]


def _revocation_list(path: Path) -> RevocationList:
    """The list in ``path``, which its product's own root signed."""
    _, ark = _read(path.with_name(_product(path) + _CHAIN))
    return certificates.read_crl(path.read_bytes(), ark)
