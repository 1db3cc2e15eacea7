"""A TEE asks a member's broker for a content key (docs/protocol.md §15.2). Trust zone: every TEE that asks.

Whoever answers, and every host between, may be lying. The frames in order: hello out, challenge in, request out
(evidence over K, and the member's word for this TEE), answer in. The key counts only if the member's own signature
names it: a host that answers with another key, or with a key of another member's choosing, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from secrets import token_bytes

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.attestation.composite import EvidenceBundle, Prover
from trusted.blob import KEY_BYTES, ContentKey
from trusted.channel.federation import Federation
from trusted.channel.refusal import read_refusal
from trusted.channel.states import successor
from trusted.documents.grant import Holder, VerifiedGrant, commitment, verify_grant
from trusted.errors import KeyReleaseError, ProtocolError, Reason
from trusted.hpke import SealingKey
from trusted.keys.binding import NONCE_BYTES, Wanted, possession, purpose, read_nonce, transcript
from trusted.keys.states import REQUESTER_TABLE, Kind, State
from trusted.wire import exactly, pack, sha256, unpack


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: a TEE in ``role``, with its member's word for it.

    Attributes:
        role: what it runs as; its evidence must say the same.
        provider: where its evidence comes from.
        credential: DSSE envelope of the credential that names ``worker_key``.
        worker_key: the key of that credential.
    """

    role: Holder
    provider: Prover
    credential: bytes
    worker_key: Ed25519PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class GrantedKey:
    """A content key, and the grant of its member under which it came."""

    key: ContentKey
    grant: VerifiedGrant


class KeyRequester:
    """One request for one key. After ``DONE``, and after any error, it is of no more use."""

    def __init__(self, federation: Federation, asker: Asker, *, key_id: bytes, member: str) -> None:
        """Ask for ``key_id`` (32 bytes), which only ``member`` can grant."""
        self._federation = federation
        self._asker = asker
        self._wanted = Wanted(
            asker.role, federation.charter.digest, federation.plan.digest, exactly(key_id, 32, "key id")
        )
        self._member = member
        self._kem = SealingKey.generate()
        self._nonce = token_bytes(NONCE_BYTES)
        self._frames: tuple[bytes, ...] = ()
        self._granted: GrantedKey | None = None
        self.state = State.START

    @property
    def granted(self) -> GrantedKey:
        """What came of it, once ``DONE``."""
        if self._granted is None or self.state is not State.DONE:
            raise RuntimeError("no key was granted")
        return self._granted

    def begin(self) -> bytes:
        """Hello: which key, and for what."""
        if self.state is not State.START:
            raise RuntimeError("a request begins once")
        self.state = State.AWAIT_CHALLENGE
        return self._note(pack(Kind.HELLO.value, self._nonce, *self._wanted.fields))

    def receive(self, frame: bytes, now: datetime) -> bytes | None:
        """Take the next frame; what to send next, or None once the key is here.

        Raises:
            ProtocolError: there will be no key; ``state`` is ``CLOSED``.
        """
        try:
            kind = Kind.of(frame)
            if kind is Kind.REFUSE:
                raise read_refusal(frame)
            following = successor(REQUESTER_TABLE, self.state, kind)
            reply = None
            if kind is Kind.CHALLENGE:
                reply = self._request(frame)
            else:
                self._granted = self._take(frame, now)
        except ProtocolError:
            self.state = State.CLOSED
            raise
        self.state = following
        return reply

    def _request(self, frame: bytes) -> bytes:
        nonce_b = read_nonce(frame, Kind.CHALLENGE.value)
        self._note(frame)
        digests = b"".join(sha256(earlier) for earlier in self._frames)
        open_transcript = transcript(self._wanted, (self._nonce, nonce_b), self._kem.public, digests)
        evidence = EvidenceBundle.collect(self._asker.provider, open_transcript)
        signature = self._asker.worker_key.sign(possession(open_transcript.over(evidence.devices)))
        fields = evidence.encode(), self._kem.public, self._asker.credential, signature
        return self._note(pack(Kind.REQUEST.value, *fields))

    def _take(self, frame: bytes, now: datetime) -> GrantedKey | None:
        # 1. The member that this site expects granted it, now, for this very use. 2. Sealed to this request's key, for
        # this exchange and this grant. 3. The key is the one that the member's signature stands for.
        envelope, sealed = unpack(frame, Kind.ANSWER.value, 2)
        grant = verify_grant(envelope, self._federation.charter)
        given = Wanted(grant.document.role, grant.document.charter, grant.document.plan, grant.document.key)
        if given != self._wanted or grant.document.member != self._member:
            raise KeyReleaseError(Reason.NOT_GRANTED, "answer.grant: another key, use or member than was asked for")
        grant.document.require_open(now)
        secret = exactly(self._kem.open(sealed, *purpose(self._frames, envelope)), KEY_BYTES, "answer.key")
        if commitment(self._wanted.key_id, secret) != grant.document.commitment:
            raise KeyReleaseError(Reason.KEY_COMMITMENT, "answer.key: not the key that the member's grant names")
        return GrantedKey(ContentKey(secret), grant)

    def _note(self, frame: bytes) -> bytes:
        self._frames = (*self._frames, frame)
        return frame
