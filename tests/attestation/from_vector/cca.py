"""Arm CCA vectors: ``token.cbor``, and the platform's key as ``cpak.jwk``. No silicon's token is public."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.attestation.from_vector import Loaded
from trusted.attestation.cca_claims import CcaClaims
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.cca import UnverifiedCcaToken, parse
from trusted.attestation.policies.cca import strict_cca_policy
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.wire import sha256

_REALM_PROFILE = {
    "http://arm.com/CCA-SSD/1.0.0": None,
    "tag:arm.com,2023:cca_platform#1.0.0": "tag:arm.com,2023:realm#1.0.0",
    "tag:arm.com,2024:cca_platform#2.0.0": "tag:arm.com,2024:realm#2.0.0",
}


def load(folder: Path, provenance: dict[str, Any]) -> Loaded:
    """The vector in ``folder``."""
    report = (folder / "token.cbor").read_bytes()
    spki = spki_of_jwk((folder / "cpak.jwk").read_text())
    token = parse(report)
    policy = strict_cca_policy(
        [token.realm.initial_measurement],
        components=token.platform.components,
        profiles=[token.platform.profile],
        assurance=Assurance.NONE,
    )
    return Loaded(
        evidence=Evidence(EvidenceFormat.CCA, report, (), parts=(("cpak", spki),)),
        roots=(TrustRoot(EvidenceFormat.CCA, "CCA", sha256(spki)),),
        policy=policy,
        expected_claims=lambda claims: merged(from_token(token), from_claims(claims)),
        parsed_claims=lambda: from_token(token),
    )


def spki_of_jwk(text: str) -> bytes:
    """DER of the P-384 key in a JSON Web Key."""
    jwk = json.loads(text)
    assert (jwk["kty"], jwk["crv"]) == ("EC", "P-384")
    x, y = (int.from_bytes(base64.urlsafe_b64decode(jwk[name] + "=="), "big") for name in ("x", "y"))
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def merged(parsed: dict[str, Any], verified: dict[str, Any]) -> dict[str, Any]:
    """The parser's words with the verified claims' own over them."""
    return {name: parsed[name] | verified[name] for name in parsed}


def from_token(token: UnverifiedCcaToken) -> dict[str, Any]:
    """What the parser reads, in the words of the provenance files."""
    platform, realm = token.platform, token.realm
    return {
        "platform": {
            "profile": platform.profile.value,
            "challenge": platform.challenge.hex(),
            "implementation_id": platform.implementation_id.hex(),
            "instance_id": platform.instance_id.hex(),
            "config": platform.config.hex(),
            "lifecycle": platform.lifecycle,
            "hash_alg": platform.hash_algorithm,
            "sw_components": len(platform.components),
        },
        "realm": {
            "profile": _REALM_PROFILE[platform.profile.value],
            "challenge": realm.challenge.hex(),
            "personalization": realm.personalization.hex(),
            "rim": realm.initial_measurement.hex(),
            "rem": [register.hex() for register in realm.extensible_measurements],
            "hash_alg": realm.hash_algorithm,
            "rak_hash_alg": realm.public_key_hash_algorithm,
            "rak": realm.public_key.hex(),
        },
    }


def from_claims(claims: CcaClaims) -> dict[str, Any]:
    """What verified claims say, where a policy can see it."""
    platform = claims.platform
    return {
        "platform": {
            "profile": platform.profile.value,
            "implementation_id": platform.implementation_id.hex(),
            "instance_id": claims.hardware_id.hex(),
            "config": platform.config.hex(),
            "lifecycle": platform.lifecycle[1],
            "hash_alg": platform.hash_algorithm,
            "sw_components": len(platform.components),
        },
        "realm": {
            "challenge": claims.report_data.hex(),
            "personalization": claims.personalization.hex(),
            "rim": claims.measurement.hex(),
            "rem": [register.hex() for register in claims.extensible_measurements],
            "hash_alg": claims.hash_algorithm,
        },
    }
