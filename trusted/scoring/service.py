"""The service's side of a scoring session: nothing is scored for whom the plan does not name (docs/protocol.md §16).

Trust zone: recipient TEE. The host, and whoever asks, may be lying. The frames in order: question in, proof out,
open in (a recipient's signature over this very session), welcome out, then a request in and an answer out, in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_bytes

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from trusted import hpke
from trusted.attestation.composite import EvidenceBundle
from trusted.channel.federation import Federation
from trusted.channel.records import Direction, RecordLayer, SessionSecrets
from trusted.channel.refusal import read_refusal
from trusted.channel.states import successor
from trusted.errors import ChannelError, ProtocolError, Reason
from trusted.evidence import EvidenceProvider
from trusted.hpke import SealingKey
from trusted.scoring.messages import Request, Table, encode_refusal, encode_scores
from trusted.scoring.states import SERVICE_TABLE, Kind, State
from trusted.scoring.terms import Statement
from trusted.scoring.transcript import MEMBER_BYTES, Offered, client_signed, proof
from trusted.wire import exactly, pack, sha256, unpack


@dataclass(frozen=True, slots=True)
class Served:
    """What every session of one runtime proves: its documents, what it serves, and who attests to it.

    Attributes:
        boot: 16 random bytes of this start.
        require_open: raises while there is nothing to serve: before evidence is spent on anybody.
    """

    federation: Federation
    statement: Statement
    provider: EvidenceProvider
    boot: bytes
    require_open: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of an admitted client; it must be answered before the next frame is taken.

    ``refused`` says why it is none that could be scored; the session goes on after its answer.
    """

    member: str
    plaintext: bytes
    request: Request | None
    refused: ProtocolError | None = None


class ServiceSession:
    """One connection. After ``OPEN`` it carries the requests of a recipient of the plan."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._kem = SealingKey.generate()
        self._nonce = token_bytes(32)
        self._frames: list[bytes] = []
        self._records: RecordLayer | None = None
        self._waiting: Asked | None = None
        self._member = ""
        self.state = State.AWAIT_QUESTION

    @property
    def member(self) -> str:
        """The admitted client's member id; empty before."""
        return self._member

    def receive(self, frame: bytes) -> bytes | Asked:
        """Take the next frame: a frame to send back, or a request to be answered with :meth:`answer`.

        Raises:
            ProtocolError: the session is over; ``state`` is ``CLOSED``.
        """
        try:
            kind = Kind.of(frame)
            if kind is Kind.REFUSE:
                raise read_refusal(frame)
            following = successor(SERVICE_TABLE, self.state, kind)
            taken = self._take(kind, frame)
        except ProtocolError:
            self.state = State.CLOSED
            raise
        self.state = following
        return taken

    def answer(self, scores: Table | Reason) -> bytes:
        """The record that answers the one request that waits, with ``scores`` or with the reason why there are none."""
        if self._waiting is None or self._records is None:
            raise RuntimeError("no request waits for an answer")
        asked, self._waiting = self._waiting, None
        if isinstance(scores, Reason):
            return self._records.seal(encode_refusal(asked.plaintext, scores))
        return self._records.seal(encode_scores(asked.plaintext, scores))

    def _take(self, kind: Kind, frame: bytes) -> bytes | Asked:
        if kind is Kind.QUESTION:
            return self._prove(frame)
        if kind is Kind.OPEN:
            return self._admit(frame)
        return self._asked(frame)

    def _prove(self, frame: bytes) -> bytes:
        nonce_c, charter, plan = unpack(frame, Kind.QUESTION.value, 3)
        exactly(nonce_c, 32, "question.nonce_c")
        self._served.federation.require_same(charter, plan)
        self._served.require_open()
        self._note(frame)
        offered = Offered(self._kem.public, self._nonce, self._served.boot, self._served.statement.encode())
        evidence = EvidenceBundle.collect(self._served.provider, proof(offered, nonce_c, charter, plan))
        fields = (evidence.encode(), offered.kem, offered.nonce, offered.boot, offered.statement)
        return self._note(pack(Kind.PROOF.value, *fields))

    def _admit(self, frame: bytes) -> bytes:
        # 1. Sealed to this session's key. 2. A recipient of the plan. 3. One of its signing keys signed this session.
        (sealed,) = unpack(frame, Kind.OPEN.value, 1)
        question, proved = self._frames
        body = self._kem.open(sealed, b"scoring-open", sha256(question), sha256(proved))
        secret_c, kem_c, name, key, signature = unpack(body, "cloister/scoring-open-body/v1", 5)
        exactly(secret_c, 32, "open.secret_c")
        exactly(kem_c, hpke.PUBLIC_BYTES, "open.kem_c")
        member = self._recipient(name, key)
        try:
            signed = client_signed((question, proved), kem_c, secret_c, member)
            Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
        except (InvalidSignature, ValueError):
            raise ChannelError(Reason.SCORING_CLIENT, "open.signature: not by the key it names") from None
        self._note(frame)
        return self._welcome(kem_c, secret_c, member)

    def _recipient(self, name: bytes, key: bytes) -> str:
        """The member of that name, who must be one that the plan releases the model to, and own ``key``."""
        federation = self._served.federation
        member = exactly(name, MEMBER_BYTES, "open.member").rstrip(b"\0").decode("utf-8", "replace")
        if member not in federation.plan.document.recipients:
            raise ChannelError(Reason.SCORING_CLIENT, "open.member: a recipient of the plan expected")
        if key not in federation.charter.document.member(member).signing_keys:
            raise ChannelError(Reason.SCORING_CLIENT, "open.key: a signing key of that member in the charter expected")
        return member

    def _welcome(self, kem_c: bytes, secret_c: bytes, member: str) -> bytes:
        secret_s, session_id = token_bytes(32), token_bytes(16)
        body = pack("cloister/scoring-welcome-body/v1", secret_s, session_id)
        digests = (sha256(earlier) for earlier in self._frames)
        welcome = pack(Kind.WELCOME.value, hpke.seal(kem_c, body, b"scoring-welcome", *digests))
        secrets = SessionSecrets(secret_c, secret_s, (*self._frames, welcome))
        self._records = RecordLayer(secrets, Direction.TO_CLIENT, session_id)
        self._member = member
        return welcome

    def _asked(self, frame: bytes) -> Asked:
        if self._records is None:
            raise RuntimeError("the state table lets no record in before a session")
        if self._waiting is not None:
            raise ChannelError(Reason.UNEXPECTED_MESSAGE, "request: the one before is not answered yet")
        plaintext, statement = self._records.open(frame), self._served.statement
        try:
            request = Request.decode(plaintext, statement.declaration, statement.limits)
        except ChannelError as error:  # of a client that is known, and is told inside the session
            self._waiting = Asked(self._member, plaintext, None, error)
        else:
            self._waiting = Asked(self._member, plaintext, request)
        return self._waiting

    def _note(self, frame: bytes) -> bytes:
        self._frames.append(frame)
        return frame
