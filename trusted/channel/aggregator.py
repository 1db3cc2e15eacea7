"""The aggregator's side of admission: nobody is admitted who has not proved code, hardware and member (protocol.md §4).

Trust zone: aggregator TEE. The host and the worker may be lying. The frames in order: hello in, offer out, join in
(evidence, credential and possession verified), welcome out, one record in that proves the worker holds the keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_bytes

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from trusted import hpke
from trusted.attestation.composite import EvidenceBundle
from trusted.attestation.result import AttestationResult
from trusted.channel.federation import Federation
from trusted.channel.records import SessionSecrets
from trusted.channel.refusal import read_refusal
from trusted.channel.session import Identity, Peer, Proof, Received, Session
from trusted.channel.states import AGGREGATOR_TABLE, Kind, State, successor
from trusted.channel.transcript import AGGREGATOR, WORKER, Challenge, Prover, admission
from trusted.documents.credential import VerifiedCredential, verify_credential
from trusted.errors import ChannelError, DocumentError, ProtocolError, Reason
from trusted.hpke import SealingKey
from trusted.wire import exactly, pack, sha256, unpack

# Covers slow evidence (configfs quotes take seconds), and ends the life of a nonce that nobody answers.
HANDSHAKE_LIMIT = timedelta(seconds=120)
_JOIN_FIELDS = 8


@dataclass(frozen=True, slots=True)
class AdmittedPeer:
    """A worker that proved what it runs, on what, and whose it is. Only an open channel makes one.

    ``verify_key`` and ``boot`` are of this start of it, ``worker_key`` is the one that its member vouches for.
    """

    member: str
    verify_key: bytes
    boot: bytes
    worker_key: bytes
    result: AttestationResult
    commitment: bytes
    session_id: bytes


@dataclass(frozen=True, slots=True)
class _Join:
    """The opened join body: claims of the worker, none verified yet but that it knew our fresh key."""

    secret: bytes
    evidence: EvidenceBundle
    prover: Prover
    credential: bytes
    commitment: bytes
    possession: bytes

    @classmethod
    def parse(cls, body: bytes) -> _Join:
        secret, evidence, kem, verify, boot, credential, commitment, possession = unpack(
            body, "cloister/join-body/v1", _JOIN_FIELDS
        )
        prover = Prover(
            WORKER,
            exactly(kem, hpke.PUBLIC_BYTES, "join.kem_w"),
            exactly(verify, 32, "join.verify_w"),
            exactly(boot, 16, "join.boot_w"),
        )
        return cls(
            secret=exactly(secret, 32, "join.secret_w"),
            evidence=EvidenceBundle.decode(evidence),
            prover=prover,
            credential=credential,
            commitment=exactly(commitment, 32, "join.commitment"),
            possession=exactly(possession, 64, "join.possession"),
        )


class AggregatorChannel:
    """One connection that a host says is a worker's. After ``OPEN`` it carries messages of an admitted peer."""

    def __init__(self, federation: Federation, identity: Identity, opened_at: datetime) -> None:
        self._federation = federation
        self._identity = identity
        self._opened_at = opened_at
        self._kem = SealingKey.generate()
        self._nonce = token_bytes(32)
        self._nonce_w = b""
        self._frames: list[bytes] = []
        self._candidate: AdmittedPeer | None = None
        self._session: Session | None = None
        self.state = State.AWAIT_HELLO

    @property
    def peer(self) -> AdmittedPeer:
        """The admitted worker of an open channel."""
        if self._candidate is None or self.state is not State.OPEN:
            raise RuntimeError("nobody is admitted on this channel")
        return self._candidate

    @property
    def session(self) -> Session:
        """The open session."""
        if self._session is None or self.state is not State.OPEN:
            raise RuntimeError("the session is not open")
        return self._session

    def receive(self, frame: bytes, now: datetime) -> Received:
        """Take the next frame.

        Raises:
            ProtocolError: the session is over; ``state`` is ``CLOSED``.
        """
        try:
            kind = Kind.of(frame)
            if kind is Kind.REFUSE:
                raise read_refusal(frame)
            following = successor(AGGREGATOR_TABLE, self.state, kind)
            received = self._take(kind, frame, now)
        except ProtocolError:
            self.state = State.CLOSED
            raise
        self.state = following
        return received

    def require_progress(self, now: datetime) -> None:
        """Refuse a handshake that takes too long, and an open session whose lease ran out."""
        if self.state is State.OPEN:
            self.session.require_lease(now)
        elif now - self._opened_at > HANDSHAKE_LIMIT:
            raise ChannelError(Reason.HANDSHAKE_TIMEOUT, "handshake: not finished in time")

    def _take(self, kind: Kind, frame: bytes, now: datetime) -> Received:
        if kind is Kind.HELLO:
            return Received(replies=(self._offer(frame),))
        if kind is Kind.JOIN:
            return Received(replies=(self._verify_join(frame, now),))
        if self._session is None:
            raise RuntimeError("the state table lets no record in before a session")
        return self._session.receive(frame, now)

    def _offer(self, frame: bytes) -> bytes:
        nonce_w, charter, plan = unpack(frame, Kind.HELLO.value, 3)
        self._nonce_w = exactly(nonce_w, 32, "hello.nonce_w")
        self._federation.require_same(charter, plan)
        self._note(frame)
        identity = self._identity
        prover = Prover(AGGREGATOR, self._kem.public, identity.verify_key, identity.boot)
        transcript = admission(prover, self._challenge, charter, plan, sha256(frame))
        evidence = EvidenceBundle.collect(identity.provider, transcript)
        fields = (evidence.encode(), prover.kem, prover.verify, self._nonce, prover.boot)
        return self._note(pack(Kind.OFFER.value, *fields))

    def _verify_join(self, frame: bytes, now: datetime) -> bytes:
        # 1. In time. 2. Sealed to this handshake's key. 3. T2 as this side sees it, and evidence bound to it.
        # 4. A credential of a member of this plan. 5. The credential's key was used in this very handshake.
        if now - self._opened_at > HANDSHAKE_LIMIT:
            raise ChannelError(Reason.NONCE, "join: the nonce is too old")
        (sealed,) = unpack(frame, Kind.JOIN.value, 1)
        hello, offer = (sha256(earlier) for earlier in self._frames)
        join = _Join.parse(self._kem.open(sealed, b"join", hello, offer))
        charter, plan = self._federation.charter.digest, self._federation.plan.digest
        context = hello + offer + join.commitment
        transcript = admission(join.prover, self._challenge, charter, plan, context)
        result = self._federation.appraise(WORKER, join.evidence, transcript, now)
        credential = self._verify_member(join, transcript.over(join.evidence.devices), now)
        self._note(frame)
        return self._note(self._welcome(join, credential, result, now))

    def _verify_member(self, join: _Join, transcript: bytes, now: datetime) -> VerifiedCredential:
        credential = verify_credential(join.credential, self._federation.charter, now)
        if credential.document.member not in self._federation.plan.document.cohort.members:
            raise DocumentError(Reason.UNKNOWN_MEMBER, "join.credential: not a member of this plan's cohort")
        try:
            key = Ed25519PublicKey.from_public_bytes(credential.document.worker_key)
            key.verify(join.possession, pack("cloister/possession/v1", transcript))
        except (InvalidSignature, ValueError):
            raise ChannelError(Reason.PEER_SIGNATURE, "join.possession: not signed by the credential's key") from None
        return credential

    def _welcome(self, join: _Join, credential: VerifiedCredential, result: AttestationResult, now: datetime) -> bytes:
        secret_a, session_id = token_bytes(32), token_bytes(16)
        lease = self._federation.plan.document.deadlines.lease_s.to_bytes(4, "big")
        body = pack("cloister/welcome-body/v1", secret_a, session_id, lease)
        welcome = pack(
            Kind.WELCOME.value,
            hpke.seal(join.prover.kem, body, b"welcome", *(sha256(earlier) for earlier in self._frames)),
        )
        secrets = SessionSecrets(join.secret, secret_a, (*self._frames, welcome))
        peer = Peer(WORKER, join.prover.verify)
        self._session = Session(self._federation, self._identity, peer, secrets=secrets, session_id=session_id)
        self._session.grant_lease(Proof(result, self._nonce), now)
        member = credential.document
        keys = join.prover.verify, join.prover.boot, member.worker_key
        self._candidate = AdmittedPeer(member.member, *keys, result, join.commitment, session_id)
        return welcome

    @property
    def _challenge(self) -> Challenge:
        return Challenge(self._nonce_w, self._nonce)

    def _note(self, frame: bytes) -> bytes:
        self._frames.append(frame)
        return frame
