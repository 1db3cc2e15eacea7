"""Nitro vectors: ``attestation.cbor``, which carries its own chain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509

from tests.attestation.from_vector import Loaded
from trusted.attestation.anchors import AWS_ROOT
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.nitro import UnverifiedNitroDocument, parse
from trusted.attestation.nitro_claims import NitroClaims
from trusted.attestation.policies.nitro import strict_nitro_policy
from trusted.attestation.policies.rules import Skip, write_time
from trusted.attestation.roots import TrustRoot

ROOTS = (TrustRoot(EvidenceFormat.NITRO, "Nitro", AWS_ROOT),)


def load(folder: Path, provenance: dict[str, Any]) -> Loaded:
    """The vector in ``folder``."""
    report = (folder / "attestation.cbor").read_bytes()
    document = parse(report)
    policy = strict_nitro_policy([dict(document.pcrs)[0]])
    return Loaded(
        evidence=Evidence(EvidenceFormat.NITRO, report, ()),
        roots=ROOTS,
        policy=replace(policy, nonce=Skip("whoever asked for it had a nonce of another kind")),
        expected_claims=lambda claims: {**from_document(document), **from_claims(claims)},
        parsed_claims=lambda: from_document(document),
    )


def from_document(document: UnverifiedNitroDocument) -> dict[str, Any]:
    """What the parser reads, in the words of the provenance files."""
    leaf = x509.load_der_x509_certificate(document.certificate)
    return {
        "module_id": document.module_id,
        "timestamp_ms": document.timestamp_ms,
        "pcrs": {str(index): value.hex() for index, value in document.pcrs},
        "public_key": _hex(document.public_key),
        "user_data": _hex(document.user_data),
        "nonce": _hex(document.nonce),
        "debug_mode": not any(any(dict(document.pcrs)[index]) for index in (0, 1, 2)),
        "leaf_not_before": write_time(leaf.not_valid_before_utc),
        "leaf_not_after": write_time(leaf.not_valid_after_utc),
    }


def from_claims(claims: NitroClaims) -> dict[str, Any]:
    """What verified claims say, where a policy can see it."""
    return {
        "module_id": claims.hardware_id.decode("ascii"),
        "pcrs": {str(index): value.hex() for index, value in claims.pcrs},
        "public_key": _hex(claims.public_key),
        "user_data": _hex(claims.user_data),
        "nonce": _hex(claims.nonce),
        "debug_mode": claims.debug,
    }


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
