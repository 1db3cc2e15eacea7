"""DSSE envelopes over RFC 8785 payloads (docs/protocol.md §2; secure-systems-lab/dsse v1.0). Trust zone: every TEE.

Rules:
 1. A keyid is the SHA-256 of the raw public key. It is derived from the key on file, and the one that an envelope
    claims only says which key to try.
 2. Every signature is looked at. ``Envelope.verify`` of securesystemslib stops at the threshold and counts key ids, so
    one key under two ids would count twice; here organisations are counted, and a key stands once or not at all.
 3. A signature under a known key that does not hold refuses the whole envelope: the payload was changed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature, SSlibKey  # type: ignore[attr-defined]  # public, but not in __all__
from securesystemslib.signer import Signer as Signer  # type: ignore[attr-defined]

from trusted.documents.schema import matching
from trusted.errors import DocumentError, Reason, WireError
from trusted.wire import Fields, decode_json, encode_json, sha256

MAX_PAYLOAD_BYTES = 4 << 20  # a charter of a thousand members takes 2.7 MiB
MAX_ENVELOPE_BYTES = 6 << 20  # that in base64, and room for signatures
MAX_SIGNATURES = 1024  # every member whose data a plan touches signs it
KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_KEYID = re.compile(r"[0-9a-f]{64}")

Document = TypeVar("Document")
KeysByMember = Mapping[str, Sequence[bytes]]
KeyOwners = Mapping[str, tuple[str, bytes]]  # by keyid: the member, and its key


@dataclass(frozen=True, slots=True)
class UnverifiedEnvelope:
    """A payload of the expected type, and claims of who signed it. Nothing has been checked: :func:`signers` does."""

    payload: bytes
    payload_type: str
    signatures: tuple[tuple[str, bytes], ...]  # (claimed keyid, 64 bytes)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the payload: the address of the document. Signatures may be added without changing it."""
        return sha256(self.payload)

    def pre_authentication_encoding(self) -> bytes:
        """PAE(payloadType, payload): what is signed, so that a payload of one type never passes as another."""
        return Envelope(self.payload, self.payload_type, {}).pae()

    def encode(self) -> bytes:
        """The envelope as canonical JSON."""
        signatures = [{"keyid": keyid, "sig": _base64(signature)} for keyid, signature in self.signatures]
        return encode_json(
            {"payload": _base64(self.payload), "payloadType": self.payload_type, "signatures": signatures}
        )


@dataclass(frozen=True, slots=True)
class Verified(Generic[Document]):
    """A document whose signatures, dates and rules were checked. Only the ``verify_…`` of its own module makes one."""

    document: Document
    digest: bytes
    envelope: bytes
    signers: frozenset[str]


def keyid_of(public_key: bytes) -> str:
    """The keyid of a raw Ed25519 public key, 32 bytes."""
    if len(public_key) != KEY_BYTES:
        raise ValueError("an Ed25519 public key has 32 bytes")
    return hashlib.sha256(public_key).hexdigest()


def new_envelope(payload: bytes, payload_type: str) -> UnverifiedEnvelope:
    """An envelope that nobody has signed yet."""
    return UnverifiedEnvelope(payload, payload_type, ())


def open_envelope(data: bytes, payload_type: str, *, max_bytes: int = MAX_ENVELOPE_BYTES) -> UnverifiedEnvelope:
    """The envelope in ``data``, whose writer may be lying; its payload has the type that the caller expects.

    Raises:
        WireError: too large, or not the canonical JSON of an envelope.
        DocumentError: PAYLOAD_TYPE: a document of another type.
    """
    with Fields(decode_json(data, max_bytes=max_bytes), "envelope") as fields:
        payload = _read_base64(fields, "payload")
        claimed_type = fields.text("payloadType", max_length=256)
        signatures = tuple(_read_signature(entry) for entry in fields.items("signatures", max_items=MAX_SIGNATURES))
    if claimed_type != payload_type:
        raise DocumentError(Reason.PAYLOAD_TYPE, f"envelope.payloadType: {payload_type} expected")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError(Reason.TOO_LARGE, f"envelope.payload: more than {MAX_PAYLOAD_BYTES} bytes")
    if len({keyid for keyid, _ in signatures}) != len(signatures):
        raise DocumentError(Reason.DUPLICATE_KEY, "envelope.signatures: a keyid stands twice")
    return UnverifiedEnvelope(payload, payload_type, signatures)


def signers(envelope: UnverifiedEnvelope, keys_by_member: KeysByMember) -> frozenset[str]:
    """The members of whom at least one key signed the payload. Signatures by keys of nobody are left aside.

    Raises:
        DocumentError: DUPLICATE_KEY: a key stands twice, which would let one organisation count as two;
            DOCUMENT_SIGNATURE: a signature under a member's key does not hold.
    """
    return signers_among(envelope, owners_of(keys_by_member))


def signers_among(envelope: UnverifiedEnvelope, member_of: KeyOwners) -> frozenset[str]:
    """As :func:`signers`, for whoever asks more than once about the same members.

    Raises:
        DocumentError: DOCUMENT_SIGNATURE: a signature under a member's key does not hold.
    """
    signed = envelope.pre_authentication_encoding()
    found = set()
    for keyid, signature in envelope.signatures:
        if keyid not in member_of:
            continue
        member, key = member_of[keyid]
        try:
            _public_key(key).verify_signature(Signature(keyid, signature.hex()), signed)
        except UnverifiedSignatureError:
            raise DocumentError(Reason.DOCUMENT_SIGNATURE, "envelope.signatures: one does not verify") from None
        found.add(member)
    return frozenset(found)


def require_signers(found: frozenset[str], required: Iterable[str], document: str) -> None:
    """Refuse when one of ``required`` has not signed.

    Raises:
        DocumentError: THRESHOLD, naming how many are missing.
    """
    missing = sum(member not in found for member in set(required))
    if missing:
        raise DocumentError(
            Reason.THRESHOLD, f"{document}: {missing} signature(s) of members who must sign are missing"
        )


def require_threshold(found: frozenset[str], threshold: int, document: str) -> None:
    """Refuse fewer than ``threshold`` organisations.

    Raises:
        DocumentError: THRESHOLD.
    """
    if len(found) < threshold:
        raise DocumentError(Reason.THRESHOLD, f"{document}: signed by {len(found)} member(s), {threshold} needed")


def sign(envelope: UnverifiedEnvelope, signer: Signer) -> UnverifiedEnvelope:
    """``envelope`` with the signature of ``signer``, whatever holds its Ed25519 key (a file, an HSM, a Vault).

    The keyid is derived here, so the signer's own naming does not matter; its signature is checked before it is kept.

    Raises:
        DocumentError: DOCUMENT_SIGNATURE: the signer has no Ed25519 key, or its signature does not hold.
    """
    public_key = raw_public_key(signer)
    keyid = keyid_of(public_key)
    signature = bytes.fromhex(signer.sign(envelope.pre_authentication_encoding()).signature)
    kept = tuple(entry for entry in envelope.signatures if entry[0] != keyid)
    signed = UnverifiedEnvelope(envelope.payload, envelope.payload_type, (*kept, (keyid, signature)))
    signers(signed, {"signer": (public_key,)})
    return signed


def raw_public_key(signer: Signer) -> bytes:
    """The 32 bytes of the Ed25519 public key of ``signer``.

    Raises:
        DocumentError: DOCUMENT_SIGNATURE: it has a key of another kind.
    """
    key = signer.public_key
    if not isinstance(key, SSlibKey) or (key.keytype, key.scheme) != ("ed25519", "ed25519"):
        raise DocumentError(Reason.DOCUMENT_SIGNATURE, "signer: an Ed25519 key expected")
    return bytes.fromhex(key.keyval["public"])


def owners_of(keys_by_member: KeysByMember) -> dict[str, tuple[str, bytes]]:
    """Whose key is whose, by keyid.

    Raises:
        DocumentError: DUPLICATE_KEY: a key stands twice, which would let one organisation count as two.
    """
    owners: dict[str, tuple[str, bytes]] = {}
    for member, keys in keys_by_member.items():
        for key in keys:
            keyid = keyid_of(key)
            if keyid in owners:
                raise DocumentError(Reason.DUPLICATE_KEY, "charter.members: a signing key stands twice")
            owners[keyid] = (member, key)
    return owners


def _public_key(raw: bytes) -> SSlibKey:
    return SSlibKey(keyid_of(raw), "ed25519", "ed25519", {"public": raw.hex()})


def _read_signature(entry: Any) -> tuple[str, bytes]:
    with Fields(entry, "envelope.signatures") as fields:
        keyid = matching(fields.text("keyid"), _KEYID, fields.path("keyid"))
        signature = _read_base64(fields, "sig")
    if len(signature) != _SIGNATURE_BYTES:
        raise WireError(Reason.MALFORMED, f"envelope.signatures.sig: {_SIGNATURE_BYTES} bytes expected")
    return keyid, signature


def _read_base64(fields: Fields, key: str) -> bytes:
    text = fields.text(key, max_length=MAX_ENVELOPE_BYTES)
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        raise WireError(Reason.MALFORMED, f"{fields.path(key)}: base64 expected") from None
    if _base64(value) != text:
        raise WireError(Reason.NOT_CANONICAL, f"{fields.path(key)}: another spelling of base64")
    return value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
