"""An open session: sealed documents both ways, and re-attestation under a lease. Trust zone: every TEE.

Rules: a challenge is answered at once with fresh evidence over T3. Whoever challenged renews the other side's
lease only when that evidence is affirmed. A lease that runs out closes the session; it closes no other.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_bytes
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.attestation.composite import EvidenceBundle
from trusted.attestation.result import AttestationResult
from trusted.channel.federation import Federation
from trusted.channel.records import Direction, RecordLayer, SessionSecrets
from trusted.channel.transcript import AGGREGATOR, WORKER, SessionBinding, reattestation
from trusted.errors import ChannelError, Reason
from trusted.evidence import EvidenceProvider
from trusted.wire import Fields, decode_json, encode_json

_NONCE_BYTES = 32
_SEVERAL = "several"
MAX_MESSAGES = 64  # in one frame
_ALONE = frozenset({_SEVERAL, "challenge", "evidence"})


@dataclass(frozen=True, slots=True)
class Identity:
    """The key that this process signs blobs with, bound into all of its evidence, and who attests to it."""

    signing_key: Ed25519PrivateKey
    provider: EvidenceProvider
    boot: bytes

    @classmethod
    def generate(cls, provider: EvidenceProvider) -> Identity:
        """A fresh key and boot id for this process, from the kernel: its generator knows when a machine is cloned."""
        return cls(Ed25519PrivateKey.from_private_bytes(token_bytes(32)), provider, token_bytes(16))

    @property
    def verify_key(self) -> bytes:
        """The raw Ed25519 public key, 32 bytes."""
        return self.signing_key.public_key().public_bytes_raw()


@dataclass(frozen=True, slots=True)
class Peer:
    """The other side of an open session: its role and the key its evidence bound."""

    role: str
    verify_key: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """What one frame brought: documents for the owner of the session, frames to send back."""

    messages: tuple[dict[str, Any], ...] = ()
    replies: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """What the peer's lease stands on: its evidence, appraised, and the nonce that it answered."""

    result: AttestationResult
    nonce: bytes


class Session:
    """Both directions of one admitted connection."""

    def __init__(
        self, federation: Federation, identity: Identity, peer: Peer, *, secrets: SessionSecrets, session_id: bytes
    ) -> None:
        self._federation = federation
        self._identity = identity
        self._peer = peer
        speaks = Direction.TO_WORKER if peer.role == WORKER else Direction.TO_AGGREGATOR
        self._records = RecordLayer(secrets, speaks, session_id)
        charter, plan = federation.charter.digest, federation.plan.digest
        self._binding = SessionBinding(session_id, charter, plan, secrets.handshake_digest)
        self._nonce: bytes | None = None
        self._lease_until: datetime | None = None
        self._proof: Proof | None = None

    @property
    def session_id(self) -> bytes:
        """16 bytes, drawn by the aggregator."""
        return self._binding.session_id

    @property
    def peer(self) -> Peer:
        """The other side."""
        return self._peer

    @property
    def proof(self) -> Proof:
        """The newest proof: another value for each one that the peer gave."""
        if self._proof is None:
            raise RuntimeError("a session is granted its first lease when it is made")
        return self._proof

    @property
    def until(self) -> datetime:
        """When the peer's lease ends, or its proof if that is sooner."""
        if self._lease_until is None:
            raise RuntimeError("a session is granted its first lease when it is made")
        return min(self._lease_until, self.proof.result.expires)

    def send(self, *messages: dict[str, Any]) -> bytes:
        """The frame that carries ``messages``, documents with a ``type``: a frame costs more than what is in it."""
        several = {"type": _SEVERAL, "messages": list(messages)}
        return self._records.seal(encode_json(messages[0] if len(messages) == 1 else several))

    def receive(self, frame: bytes, now: datetime) -> Received:
        """Open the next record; answer a challenge, take evidence, or hand the message on.

        Raises:
            ChannelError, WireError, AttestationError: the session is over.
        """
        message = decode_json(self._records.open(frame))
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise ChannelError(Reason.MALFORMED, "message: an object with a type expected")
        if message["type"] == "challenge":
            return Received(replies=(self._answer(message),))
        if message["type"] == "evidence":
            self._take_evidence(message, now)
            return Received()
        return Received(messages=_unfolded(message))

    def grant_lease(self, proof: Proof, now: datetime) -> None:
        """The peer has just proved itself: it is trusted for one lease from ``now``, and never beyond its ``proof``."""
        self._lease_until = now + timedelta(seconds=self._federation.plan.document.deadlines.lease_s)
        self._proof = proof
        self._nonce = None

    def challenge(self) -> bytes | None:
        """A frame that asks the peer for fresh evidence; None while an earlier challenge is unanswered."""
        if self._nonce is not None:
            return None
        self._nonce = token_bytes(_NONCE_BYTES)
        return self.send({"type": "challenge", "nonce": self._nonce.hex()})

    def require_lease(self, now: datetime) -> None:
        """Refuse to go on when the peer's lease or proof ran out, or the documents no longer hold."""
        if self._lease_until is None or self._proof is None or now > self._lease_until:
            raise ChannelError(Reason.LEASE_EXPIRED, "lease: the peer did not renew its evidence in time")
        self._proof.result.require_unexpired(now)
        self._federation.require_valid(now)

    def _answer(self, message: dict[str, Any]) -> bytes:
        with Fields(message, "challenge") as fields:
            fields.text("type")
            nonce = fields.octets("nonce", _NONCE_BYTES)
        role = AGGREGATOR if self._peer.role == WORKER else WORKER
        transcript = reattestation(role, self._identity.verify_key, nonce, self._binding)
        evidence = EvidenceBundle.collect(self._identity.provider, transcript)
        return self.send({"type": "evidence", "nonce": nonce.hex(), "evidence": evidence.encode().hex()})

    def _take_evidence(self, message: dict[str, Any], now: datetime) -> None:
        with Fields(message, "evidence") as fields:
            fields.text("type")
            nonce = fields.octets("nonce", _NONCE_BYTES)
            evidence = fields.octets("evidence")
        if self._nonce is None or not hmac.compare_digest(nonce, self._nonce):
            raise ChannelError(Reason.NONCE, "evidence: answers no open challenge of this side")
        transcript = reattestation(self._peer.role, self._peer.verify_key, self._nonce, self._binding)
        bundle = EvidenceBundle.decode(evidence)
        result = self._federation.appraise(self._peer.role, bundle, transcript, now)
        self.grant_lease(Proof(result, nonce), now)


def _unfolded(message: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The documents of one record, in their order.

    Raises:
        WireError, ChannelError: not one, and not a list of those that may stand in a list.
    """
    if message["type"] != _SEVERAL:
        return (message,)
    with Fields(message, "several") as fields:
        fields.text("type")
        messages = fields.items("messages", max_items=MAX_MESSAGES)
    if not all(isinstance(one, dict) and isinstance(one.get("type"), str) for one in messages):
        raise ChannelError(Reason.MALFORMED, "several.messages: objects with a type expected")
    if any(one["type"] in _ALONE for one in messages):
        raise ChannelError(Reason.UNEXPECTED_MESSAGE, "several.messages: one that stands alone")
    return tuple(messages)
