"""The token of a Google Confidential Space workload, and the keys that sign such tokens. Trust zone: every TEE.

A compact JSON Web Signature in the one algorithm RS256. Google's verifier has looked at the machine; the token is its
word. Source: Confidential Space documentation, "attestation token claims"; RFC 7515, 7517, 7519, 9711.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trusted.attestation.formats import foreign_json
from trusted.attestation.formats.jwk import UnverifiedRsaKey, base64url, parse_rsa
from trusted.errors import AttestationError, Reason

MAX_TOKEN_BYTES = 16 << 10
MAX_JWKS_BYTES = 32 << 10
_MAX_HEADER_BYTES = 1024
_MAX_KEYS = 16
_MAX_TIME = 253402300799  # the year 9999
_DIGEST_PREFIX = "sha256:"
_DIGEST_BYTES = 32
_NAME = "token"


@dataclass(frozen=True, slots=True)
class Container:
    """What the launcher started, and with what: the operator of the machine chooses all of it.

    Attributes:
        image_digest: of the image's manifest, 32 bytes.
        reference: where the image was fetched.
        arguments: the command line after the entry point.
        environment: variables that the operator set or changed, (name, value) by name.
        command: what the operator put in place of the entry point's command; empty when nothing.
        restart_policy: ``Never``, ``Always`` or ``OnFailure``.
    """

    image_digest: bytes
    reference: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    command: tuple[str, ...]
    restart_policy: str


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """The claims of a token, by their meaning; names in the token stand in brackets.

    Attributes:
        nonce: what the workload put in [eat_nonce], hexadecimal there.
        issued, not_before, expires: [iat, nbf, exp].
        hardware: [hwmodel], such as ``GCP_AMD_SEV`` or ``GCP_INTEL_TDX``.
        debug: [dbgstat] is anything but ``disabled-since-boot``.
        software, version: [swname, swversion], the launcher's image.
        support: [support_attributes]: of STABLE, LATEST, USABLE, EXPERIMENTAL.
        monitoring: whether the operator collects the machine's memory metrics.
    """

    issuer: str
    audience: str
    subject: str
    nonce: bytes
    issued: datetime
    not_before: datetime
    expires: datetime
    hardware: str
    debug: bool
    secure_boot: bool
    software: str
    version: int
    support: frozenset[str]
    monitoring: bool
    project: str
    instance: str
    container: Container


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A token that anybody may have written.

    Attributes:
        kid: which key is said to have signed.
        payload: the claims' JSON, unread: nobody has signed it yet.
        signed: the bytes under the signature.
    """

    kid: str
    payload: bytes
    signed: bytes
    signature: bytes


def parse(token: bytes) -> UnverifiedToken:
    """The parts of ``token``.

    Raises:
        AttestationError: EVIDENCE_FORMAT: not a compact token, or one whose header asks for anything but RS256.
    """
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise _error(f"at most {MAX_TOKEN_BYTES} ASCII characters expected")
    parts = token.decode("ascii").split(".")
    if len(parts) != 3:
        raise _error("header, payload and signature, with dots between, expected")
    header_bytes, payload, signature = (base64url(part, _NAME) for part in parts)
    header = foreign_json.parse_object(header_bytes, "token.header", max_bytes=_MAX_HEADER_BYTES)
    if set(header) != {"alg", "kid", "typ"} or header["alg"] != "RS256" or header["typ"] != "JWT":
        raise _error("header: alg RS256, typ JWT and kid, and no more, expected")
    kid = foreign_json.field(header, "kid", str, "token.header")
    return UnverifiedToken(kid, payload, token.rpartition(b".")[0], signature)


def parse_jwks(jwks: bytes) -> Mapping[str, UnverifiedRsaKey]:
    """The keys in ``jwks`` by their id.

    Raises:
        AttestationError: EVIDENCE_FORMAT: not a set of RSA keys for RS256 with distinct ids.
    """
    value = foreign_json.parse_object(jwks, "jwks", max_bytes=MAX_JWKS_BYTES)
    items = foreign_json.field(value, "keys", list, "jwks")
    if not 0 < len(items) <= _MAX_KEYS or not all(isinstance(item, dict) for item in items):
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"jwks.keys: 1 to {_MAX_KEYS} objects expected")
    if any(item.get("alg", "RS256") != "RS256" or item.get("use", "sig") != "sig" for item in items):
        raise AttestationError(Reason.EVIDENCE_FORMAT, "jwks.keys: keys for signatures in RS256 expected")
    keys = {key.kid: key for key in (parse_rsa(item, "jwks.keys") for item in items)}
    if len(keys) != len(items):
        raise AttestationError(Reason.EVIDENCE_FORMAT, "jwks.keys: distinct kid expected")
    return keys


def parse_claims(payload: bytes) -> TokenClaims:
    """The claims in ``payload``, which was signed. Claims that are not known here are Google's to add, and not read.

    Raises:
        AttestationError: EVIDENCE_FORMAT.
    """
    value = foreign_json.parse_object(payload, _NAME, max_bytes=MAX_TOKEN_BYTES)
    modules = _object(value, "submods")
    space = _object(modules, "confidential_space")
    engine = _object(modules, "gce")
    return TokenClaims(
        issuer=_text(value, "iss"),
        audience=_text(value, "aud"),
        subject=_text(value, "sub"),
        nonce=_nonce(_text(value, "eat_nonce")),
        issued=_time(value, "iat"),
        not_before=_time(value, "nbf"),
        expires=_time(value, "exp"),
        hardware=_text(value, "hwmodel"),
        debug=_text(value, "dbgstat") != "disabled-since-boot",
        secure_boot=foreign_json.field(value, "secboot", bool, _NAME),
        software=_text(value, "swname"),
        version=_version(value),
        support=frozenset(_texts(space, "support_attributes")),
        monitoring=_monitoring(space),
        project=_text(engine, "project_id"),
        instance=_text(engine, "instance_id"),
        container=_container(_object(modules, "container")),
    )


def _error(rule: str) -> AttestationError:
    return AttestationError(Reason.EVIDENCE_FORMAT, f"{_NAME}.{rule}")


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = foreign_json.field(value, key, dict, _NAME)
    return found


def _text(value: Mapping[str, Any], key: str) -> str:
    found: str = foreign_json.field(value, key, str, _NAME)
    return found


def _texts(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of strings; absent and null are the empty list, as Google writes them."""
    found = value.get(key)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise _error(f"{key}: a list of strings expected")
    return tuple(found)


def _time(value: Mapping[str, Any], key: str) -> datetime:
    seconds: int = foreign_json.field(value, key, int, _NAME)
    if not 0 <= seconds <= _MAX_TIME:
        raise _error(f"{key}: seconds since 1970 expected")
    return datetime.fromtimestamp(seconds, UTC)


def _nonce(text: str) -> bytes:
    try:
        nonce = bytes.fromhex(text)
    except ValueError:
        nonce = b""
    if not nonce or nonce.hex() != text:
        raise _error("eat_nonce: one nonce, in lower-case hexadecimal, expected")
    return nonce


def _version(value: Mapping[str, Any]) -> int:
    versions = _texts(value, "swversion")
    if len(versions) != 1 or not versions[0].isdecimal() or not versions[0].isascii() or len(versions[0]) > 12:
        raise _error("swversion: one decimal number expected")
    return int(versions[0])


def _monitoring(space: Mapping[str, Any]) -> bool:
    if "monitoring_enabled" not in space:
        return False
    enabled: bool = foreign_json.field(_object(space, "monitoring_enabled"), "memory", bool, _NAME)
    return enabled


def _container(value: Mapping[str, Any]) -> Container:
    digest = _text(value, "image_digest")
    try:
        content = bytes.fromhex(digest.removeprefix(_DIGEST_PREFIX))
    except ValueError:
        content = b""
    if len(content) != _DIGEST_BYTES or _DIGEST_PREFIX + content.hex() != digest:
        raise _error("image_digest: sha256: and 64 hexadecimal digits expected")
    overrides = value.get("env_override")
    environment = {} if overrides is None else _object(value, "env_override")
    if not all(isinstance(item, str) for item in environment.values()):
        raise _error("env_override: strings expected")
    return Container(
        image_digest=content,
        reference=_text(value, "image_reference"),
        arguments=_texts(value, "args"),
        environment=tuple(sorted(environment.items())),
        command=_texts(value, "cmd_override"),
        restart_policy=_text(value, "restart_policy"),
    )
