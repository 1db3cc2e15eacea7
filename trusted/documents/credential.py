"""A member's word for its worker's key (docs/protocol.md §2). Trust zone: every TEE.

Evidence says what a worker runs, and on what; only the member can say that it is *its* worker. Both are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trusted.documents.charter import VerifiedCharter
from trusted.documents.dsse import KEY_BYTES, Verified, keyid_of, open_envelope, signers_among
from trusted.documents.schema import DIGEST_BYTES, Validity, read_member
from trusted.errors import DocumentError, Reason
from trusted.wire import Fields, decode_json, encode_json, sha256

PAYLOAD_TYPE = "application/vnd.cloister.credential.v1+json"
MAX_ENVELOPE_BYTES = 1 << 14  # it travels in a join, before its sender is admitted


@dataclass(frozen=True, slots=True)
class Credential:
    """Whoever holds the private half of ``worker_key`` (Ed25519, 32 bytes) is the worker of ``member``; as parsed."""

    member: str
    charter: bytes
    worker_key: bytes
    validity: Validity

    @classmethod
    def parse(cls, payload: bytes) -> Credential:
        """The credential of a payload, whose writer may be lying.

        Raises:
            WireError, DocumentError: not canonical, or a field is missing, unknown or out of bounds.
        """
        with Fields(decode_json(payload), "credential") as fields:
            return cls(
                member=read_member(fields, "member"),
                charter=fields.octets("charter", DIGEST_BYTES),
                worker_key=fields.octets("worker_key", KEY_BYTES),
                validity=Validity.read(fields),
            )

    def encode(self) -> bytes:
        """The canonical payload."""
        return encode_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The document as docs/protocol.md §2 names its fields."""
        return {
            "member": self.member,
            "charter": self.charter.hex(),
            "worker_key": self.worker_key.hex(),
            **self.validity.to_json(),
        }


@dataclass(frozen=True, slots=True)
class VerifiedCredential(Verified[Credential]):
    """A credential that its member signed under this charter, and that holds now."""


def verify_credential(envelope: bytes, charter: VerifiedCharter, now: datetime) -> VerifiedCredential:
    """The credential in ``envelope``, whose bearer may be lying, at the time ``now``.

    1. It names this charter and one of its members. 2. That member signed it. 3. It holds now. 4. The worker's key is
    no signing key of the charter: a key that lives on a server never signs for the organisation.

    Raises:
        WireError, DocumentError: the first rule that does not hold.
    """
    opened = open_envelope(envelope, PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
    credential = Credential.parse(opened.payload)
    if credential.charter != charter.digest:
        raise DocumentError(Reason.CREDENTIAL, "credential.charter: the digest of another charter")
    member = charter.document.member(credential.member)
    found = signers_among(opened, charter.owners) & {member.id}
    if not found:
        raise DocumentError(Reason.CREDENTIAL, "credential: not signed by the member it speaks for")
    credential.validity.check(now, "credential")
    if keyid_of(credential.worker_key) in charter.owners:
        raise DocumentError(
            Reason.CREDENTIAL, "credential.worker_key: a member's signing key; a key of its own expected"
        )
    return VerifiedCredential(credential, sha256(opened.payload), envelope, found)
