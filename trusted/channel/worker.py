"""The worker's side of admission: it verifies the aggregator before it says anything (docs/protocol.md §4).

Trust zone: worker TEE. The host, and whoever answers as aggregator, may be lying. The frames in order:
hello out, offer in (verified against charter and plan), join out (sealed to the verified key), welcome in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from secrets import token_bytes

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted import hpke
from trusted.attestation.composite import EvidenceBundle
from trusted.attestation.result import AttestationResult
from trusted.channel.federation import Federation
from trusted.channel.records import SessionSecrets
from trusted.channel.refusal import read_refusal
from trusted.channel.session import Identity, Peer, Proof, Received, Session
from trusted.channel.states import WORKER_TABLE, Kind, State, successor
from trusted.channel.transcript import AGGREGATOR, WORKER, Challenge, Prover, admission
from trusted.errors import ChannelError, ProtocolError, Reason
from trusted.hpke import SealingKey
from trusted.wire import exactly, pack, sha256, unpack


@dataclass(frozen=True, slots=True)
class Membership:
    """What makes this worker its member's: a signed credential, the key it names, and the data it commits to."""

    credential: bytes
    worker_key: Ed25519PrivateKey = field(repr=False)
    commitment: bytes


class WorkerChannel:
    """One attempt at one session. After ``OPEN`` it carries messages; after any error it is of no more use."""

    def __init__(self, federation: Federation, identity: Identity, membership: Membership) -> None:
        self._federation = federation
        self._identity = identity
        self._membership = membership
        self._kem = SealingKey.generate()
        self._nonce = token_bytes(32)
        self._secret = token_bytes(32)
        self._frames: list[bytes] = []
        self._peer_key = b""
        self._session: Session | None = None
        self.state = State.START
        self.aggregator: AttestationResult | None = None

    @property
    def session(self) -> Session:
        """The open session."""
        if self._session is None or self.state is not State.OPEN:
            raise RuntimeError("the session is not open")
        return self._session

    def begin(self) -> bytes:
        """Hello: a nonce and two digests, and nothing else, since nobody has proved anything yet."""
        if self.state is not State.START:
            raise RuntimeError("a channel begins once")
        charter, plan = self._federation.charter.digest, self._federation.plan.digest
        self.state = State.AWAIT_OFFER
        return self._note(pack(Kind.HELLO.value, self._nonce, charter, plan))

    def receive(self, frame: bytes, now: datetime) -> Received:
        """Take the next frame.

        Raises:
            ProtocolError: the session is over; ``state`` is ``CLOSED``.
        """
        try:
            kind = Kind.of(frame)
            if kind is Kind.REFUSE:
                raise read_refusal(frame)
            following = successor(WORKER_TABLE, self.state, kind)
            received = self._take(kind, frame, now)
        except ProtocolError:
            self.state = State.CLOSED
            raise
        self.state = following
        return received

    def _take(self, kind: Kind, frame: bytes, now: datetime) -> Received:
        if kind is Kind.OFFER:
            return Received(replies=(self._verify_offer(frame, now),))
        if kind is Kind.WELCOME:
            self._take_welcome(frame, now)
            return Received()
        return self.session.receive(frame, now)

    def _verify_offer(self, frame: bytes, now: datetime) -> bytes:
        # 1. Fields of the right size. 2. T1 as this worker sees it. 3. The evidence, bound to exactly that.
        # 4. Only then is anything of this site said, and only to the key that was proved.
        evidence, kem, verify, nonce_a, boot = unpack(frame, Kind.OFFER.value, 5)
        prover = Prover(
            AGGREGATOR,
            exactly(kem, hpke.PUBLIC_BYTES, "offer.kem_a"),
            exactly(verify, 32, "offer.verify_a"),
            exactly(boot, 16, "offer.boot_a"),
        )
        challenge = Challenge(self._nonce, exactly(nonce_a, 32, "offer.nonce_a"))
        charter, plan = self._federation.charter.digest, self._federation.plan.digest
        transcript = admission(prover, challenge, charter, plan, sha256(self._frames[0]))
        self.aggregator = self._federation.appraise(AGGREGATOR, EvidenceBundle.decode(evidence), transcript, now)
        self._peer_key = verify
        self._note(frame)
        return self._note(self._join(kem, challenge))

    def _join(self, kem_a: bytes, challenge: Challenge) -> bytes:
        member, identity = self._membership, self._identity
        hello, offer = (sha256(frame) for frame in self._frames)
        prover = Prover(WORKER, self._kem.public, identity.verify_key, identity.boot)
        charter, plan = self._federation.charter.digest, self._federation.plan.digest
        transcript = admission(prover, challenge, charter, plan, hello + offer + member.commitment)
        evidence = EvidenceBundle.collect(identity.provider, transcript)
        body = pack(
            "cloister/join-body/v1",
            self._secret,
            evidence.encode(),
            prover.kem,
            prover.verify,
            prover.boot,
            member.credential,
            member.commitment,
            member.worker_key.sign(pack("cloister/possession/v1", transcript.over(evidence.devices))),
        )
        return pack(Kind.JOIN.value, hpke.seal(kem_a, body, b"join", hello, offer))

    def _take_welcome(self, frame: bytes, now: datetime) -> None:
        (sealed,) = unpack(frame, Kind.WELCOME.value, 1)
        hello, offer, join = (sha256(earlier) for earlier in self._frames)
        body = self._kem.open(sealed, b"welcome", hello, offer, join)
        secret_a, session_id, lease = unpack(body, "cloister/welcome-body/v1", 3)
        exactly(session_id, 16, "welcome.session_id")
        if exactly(lease, 4, "welcome.lease") != self._federation.plan.document.deadlines.lease_s.to_bytes(4, "big"):
            raise ChannelError(Reason.WRONG_PLAN, "welcome.lease: not the plan's")
        self._note(frame)
        secrets = SessionSecrets(self._secret, exactly(secret_a, 32, "welcome.secret_a"), tuple(self._frames))
        if self.aggregator is None:
            raise RuntimeError("the state table lets no welcome in before a verified offer")
        peer = Peer(AGGREGATOR, self._peer_key)
        self._session = Session(self._federation, self._identity, peer, secrets=secrets, session_id=session_id)
        self._session.grant_lease(Proof(self.aggregator, self._nonce), now)

    def _note(self, frame: bytes) -> bytes:
        self._frames.append(frame)
        return frame
