"""What a scoring service's evidence, and its client's signature, are bound to (docs/protocol.md §16.1)."""

from __future__ import annotations

from dataclasses import dataclass

from trusted.attestation.composite import OpenTranscript
from trusted.channel.transcript import RECIPIENT
from trusted.wire import pack, sha256

SCORING = b"scoring"
MEMBER_BYTES = 64


@dataclass(frozen=True, slots=True)
class Offered:
    """A service's keys for one session: HPKE key (1216 bytes), boot id (16) and its nonce (32); and its statement."""

    kem: bytes
    nonce: bytes
    boot: bytes
    statement: bytes


def name_field(member: str) -> bytes:
    """The member id (at most 63 bytes) and zeros: 64 bytes for everybody, so that no length tells who asks."""
    return member.encode().ljust(MEMBER_BYTES, b"\0")


def proof(offered: Offered, nonce_c: bytes, charter: bytes, plan: bytes) -> OpenTranscript:
    """S: a runtime of this charter and plan serves exactly this, and answers this client's nonce with this key."""
    role = RECIPIENT.encode("ascii")
    before = (role, SCORING, nonce_c, offered.nonce, offered.kem, offered.boot, charter, plan)
    return OpenTranscript(before, (sha256(offered.statement),))


def client_signed(frames: tuple[bytes, bytes], kem_c: bytes, secret_c: bytes, member: str) -> bytes:
    """What a client signs: both frames of this very session (so no other service can use it), and its own keys."""
    question, answered = (sha256(frame) for frame in frames)
    return pack("cloister/scoring-client/v1", question, answered, kem_c, sha256(secret_c), member.encode())
