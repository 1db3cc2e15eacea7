"""Confidential Space vectors: the token (``*.jwt``) and Google's keys of its time (``*jwks*.json``).

Google's keys change, so their set is the vector's own root: members would pin it in their charter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.attestation.from_vector import Loaded, files
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.gcp_token import parse, parse_claims
from trusted.attestation.policies.gcp_cs import strict_gcp_cs_policy
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.wire import sha256


def load(folder: Path, provenance: dict[str, Any]) -> Loaded:
    """The vector in ``folder``."""
    token = files.one(folder, "*.jwt", "*token*", "*.txt").read_bytes().strip()
    jwks = files.one(folder, "*jwks*").read_bytes()
    payload = parse(token).payload
    claims = parse_claims(payload)
    image, project = claims.container.image_digest, claims.project
    return Loaded(
        evidence=Evidence(EvidenceFormat.GCP_CS, token, (), parts=(("jwks", jwks),)),
        roots=(TrustRoot(EvidenceFormat.GCP_CS, "Confidential Space", sha256(jwks)),),
        policy=strict_gcp_cs_policy([image], projects=[project], assurance=Assurance.NONE),
        # The claims are the token's own words, which are signed: a provenance file can only quote them.
        expected_claims=lambda verified: json.loads(payload),
        parsed_claims=lambda: json.loads(payload),
    )
