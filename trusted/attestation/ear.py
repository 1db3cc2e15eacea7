"""Attestation results as signed EAT Attestation Results: EAR (RFC 9711; draft-ietf-rats-ear-04) in a compact JWS.

Trust zone: every TEE. The appraiser signs with its session key (Ed25519); whoever has that key from the appraiser's own
evidence can check later, offline, who was admitted under which policy: ``sign_ear(peer.result, ...)``. One
header, one spelling: nothing in a token chooses how it is verified. A token holds public values only: a chip's id would
tell every host whose machine it is, in every run, and stays in the evidence, which the token names by its digest.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from trusted.attestation.result import AttestationResult
from trusted.attestation.trust_vector import Tier, TrustVector
from trusted.errors import AttestationError, Reason, WireError
from trusted.wire import Fields, Json, decode_json, encode_json

PROFILE = "tag:ietf.org,2026:rats/ear#04"
DEVELOPER = "Cloister"
RELEASE = "0.1.0"
MAX_TOKEN_BYTES = 1 << 17
_HEADER = encode_json({"alg": "EdDSA", "typ": "eat+jwt"})
MAX_SUBJECT_CHARS = 256
_SUBMOD = re.compile(r"[a-z][a-z0-9-]{0,31}")
_MAX_SUBMODS = 32
# RFC 9711, section 4.1: in JSON 8 to 88 characters of base64url.
_NONCE_BYTES = range(8, 65)
_TIMES = ("iat", "exp")
_LATEST = 253_402_300_799  # the last second of the year 9999
# A verifier whose clock runs a little behind the appraiser's.
_CLOCK_TOLERANCE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Appraiser:
    """Who appraised: the build of the measured code, and its key.

    ``build`` is what identifies the release: a version, or a measurement in hexadecimal.
    """

    build: str
    key: Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Grant:
    """What an appraisal gave: to whom, for which question, and how long.

    Attributes:
        subject: who was appraised, in the appraiser's words; at most 256 characters; empty: a file that somebody had.
        nonce: the question that the evidence answers, 8 to 64 bytes.
        until: when the grant ends, if that is before the result does; None: with the result.
    """

    subject: str
    nonce: bytes
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class AppraisedPart:
    """What a token says about one part of a machine: the CPU, or a device.

    Attributes:
        status: the worst tier of ``vector``.
        policy_digest, evidence_digest: SHA-256 of what was applied, and to what.
        conclusions: the result in words: format, product, measurement, assurance, skips and so on.
    """

    name: str
    status: Tier
    vector: TrustVector
    policy_digest: bytes
    evidence_digest: bytes
    conclusions: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class VerifiedEar:
    """A token that its appraiser signed, within its time."""

    build: str
    subject: str
    nonce: bytes
    issued: datetime
    expires: datetime
    parts: tuple[AppraisedPart, ...]

    @property
    def status(self) -> Tier:
        """The worst status of any part."""
        return max((part.status for part in self.parts), key=list(Tier).index)

    def require_current(self, now: datetime) -> None:
        """The token stands at ``now``.

        Raises:
            AttestationError: CERT_NOT_YET_VALID, CERT_EXPIRED.
        """
        if self.issued > now + _CLOCK_TOLERANCE:
            raise AttestationError(Reason.CERT_NOT_YET_VALID, "EAR.iat: in the future; check the clock")
        if now > self.expires:
            raise AttestationError(Reason.CERT_EXPIRED, "EAR.exp: expired; attest again")

    def require_nonce(self, nonce: bytes) -> None:
        """The token answers ``nonce``.

        Raises:
            AttestationError: NONCE.
        """
        if not hmac.compare_digest(self.nonce, nonce):
            raise AttestationError(Reason.NONCE, "EAR.eat_nonce: answers another question")


def sign_ear(result: AttestationResult, grant: Grant, appraiser: Appraiser) -> str:
    """The token for ``result``: a part ``cpu``, and one for each device that it holds.

    Raises:
        ValueError: a nonce that is not 8 to 64 bytes, or a subject of more than 256 characters.
    """
    if len(grant.nonce) not in _NONCE_BYTES or len(grant.subject) > MAX_SUBJECT_CHARS:
        raise ValueError("nonce: 8 to 64 bytes, and subject: at most 256 characters, expected")
    parts = {"cpu": result}
    parts |= {f"{device.format.value}-{place}": device for place, device in enumerate(result.devices)}
    claims: dict[str, Json] = {
        "eat_profile": PROFILE,
        "iat": _seconds(result.issued),
        "exp": _seconds(result.expires if grant.until is None else min(grant.until, result.expires)),
        "eat_nonce": _base64url(grant.nonce),
        "ear_verifier_id": {"developer": DEVELOPER, "build": appraiser.build},
        "submods": {name: _submod(part) for name, part in parts.items()},
    }
    if grant.subject:
        claims["sub"] = grant.subject
    signed = f"{_base64url(_HEADER)}.{_base64url(encode_json(claims))}"
    return f"{signed}.{_base64url(appraiser.key.sign(signed.encode('ascii')))}"


def verify_ear(token: str, key: bytes, now: datetime) -> VerifiedEar:
    """What ``token`` says, signed by the appraiser whose Ed25519 key is ``key`` (32 bytes) and valid at ``now``.

    Raises:
        WireError: not such a token.
        AttestationError: EVIDENCE_SIGNATURE, CERT_EXPIRED, CERT_NOT_YET_VALID.
    """
    ear = open_ear(token, key)
    ear.require_current(now)
    return ear


def open_ear(token: str, key: bytes) -> VerifiedEar:
    """What ``token`` says, signed by ``key``; whether it still stands, or did at some time, is for the caller to ask.

    1. Its size. 2. The one header. 3. The signature. 4. Only then the claims: the profile, every field.

    Raises:
        WireError: not such a token.
        AttestationError: EVIDENCE_SIGNATURE.
    """
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise WireError(Reason.TOO_LARGE, f"EAR: at most {MAX_TOKEN_BYTES} ASCII characters expected")
    parts = token.split(".")
    if len(parts) != 3:
        raise WireError(Reason.MALFORMED, "EAR: header, claims and signature expected")
    header, payload, signature = (_unbase64url(part) for part in parts)
    if header != _HEADER:
        raise WireError(Reason.UNSUPPORTED_VERSION, "EAR.header: EdDSA and eat+jwt, and nothing else, expected")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, token.rpartition(".")[0].encode("ascii"))
    except (InvalidSignature, ValueError):
        raise AttestationError(Reason.EVIDENCE_SIGNATURE, "EAR: not signed by the appraiser") from None
    return _read(decode_json(payload, max_bytes=MAX_TOKEN_BYTES))


def _submod(result: AttestationResult) -> dict[str, Json]:
    conclusions = result.to_json()
    for withheld in ("status", "issued", "expires", "policy", "devices", "hardware_id"):  # elsewhere, or not public
        conclusions.pop(withheld)
    return {
        "ear_status": result.vector.status.value,
        "ear_trustworthiness_vector": result.vector.to_json(),
        "ear_appraisal_policy_ids": [_policy_id(result.policy_digest)],
        "ear_verifier_claims": conclusions,
    }


def _policy_id(digest: bytes) -> str:
    return f"urn:cloister:policy:sha256:{digest.hex()}"


def _read(value: Any) -> VerifiedEar:
    with Fields(value, "EAR") as fields:
        fields.choice("eat_profile", [PROFILE])
        issued, expires = (datetime.fromtimestamp(fields.integer(key, low=0, high=_LATEST), UTC) for key in _TIMES)
        nonce = _unbase64url(fields.text("eat_nonce", max_length=88))
        with Fields(fields.mapping("ear_verifier_id"), fields.path("ear_verifier_id")) as verifier:
            verifier.choice("developer", [DEVELOPER])
            build = verifier.text("build", max_length=128)
        subject = fields.text("sub", max_length=MAX_SUBJECT_CHARS) if fields.has("sub") else ""
        submods = fields.mapping("submods")
    if not 0 < len(submods) <= _MAX_SUBMODS or not all(_SUBMOD.fullmatch(name) for name in submods):
        raise WireError(Reason.MALFORMED, f"EAR.submods: 1 to {_MAX_SUBMODS} parts with plain names expected")
    parts = tuple(_read_part(name, submods[name]) for name in submods)
    return VerifiedEar(build, subject, nonce, issued, expires, parts)


def _read_part(name: str, value: Any) -> AppraisedPart:
    with Fields(value, f"EAR.submods.{name}") as fields:
        status = Tier(fields.choice("ear_status", [tier.value for tier in Tier]))
        vector = _read_vector(fields)
        policies = fields.items("ear_appraisal_policy_ids", max_items=1)
        conclusions = fields.mapping("ear_verifier_claims")
    if status is not vector.status:
        raise WireError(Reason.MALFORMED, f"EAR.submods.{name}.ear_status: the worst of its claims expected")
    if len(policies) != 1 or not isinstance(policies[0], str):
        raise WireError(Reason.MALFORMED, f"EAR.submods.{name}.ear_appraisal_policy_ids: one policy expected")
    policy = Fields({"sha256": policies[0].removeprefix(_policy_id(b""))}, f"EAR.submods.{name}.policy")
    evidence = Fields(conclusions, f"EAR.submods.{name}.ear_verifier_claims")
    digests = policy.octets("sha256", 32), evidence.octets("evidence", 32)
    return AppraisedPart(name, status, vector, *digests, conclusions)


def _read_vector(fields: Fields) -> TrustVector:
    path = fields.path("ear_trustworthiness_vector")
    with Fields(fields.mapping("ear_trustworthiness_vector"), path) as entry:
        names = TrustVector.__slots__
        return TrustVector(*(entry.integer(name.replace("_", "-"), low=-128, high=127) for name in names))


def _seconds(time: datetime) -> int:
    return int(time.timestamp())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _unbase64url(text: str) -> bytes:
    """The bytes of ``text``, which is their one spelling."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        data = b""
    if _base64url(data) != text:
        raise WireError(Reason.MALFORMED, "EAR: base64url without padding expected")
    return data
