"""The client's side of a scoring session: no row is sent before the service has proved itself (docs/protocol.md §16).

Trust zone: the client's machine. The host, and whoever answers as the service, may be lying. The frames in order:
question out, proof in (verified by the charter's recipient policy), open out (sealed to the proved key), welcome in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from secrets import token_bytes

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted import hpke
from trusted.attestation.binding import report_data
from trusted.attestation.composite import EvidenceBundle
from trusted.attestation.result import AttestationResult
from trusted.channel.federation import Federation
from trusted.channel.records import Direction, RecordLayer, SessionSecrets
from trusted.channel.refusal import read_refusal
from trusted.channel.states import successor
from trusted.channel.transcript import RECIPIENT
from trusted.errors import ChannelError, ProtocolError, Reason
from trusted.hpke import SealingKey
from trusted.scoring.messages import Request, Table, decode_answer
from trusted.scoring.states import CLIENT_TABLE, Kind, State
from trusted.scoring.terms import Statement
from trusted.scoring.transcript import Offered, client_signed, name_field, proof
from trusted.wire import exactly, pack, sha256, unpack


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: a recipient of the plan, and one of its signing keys."""

    member: str
    key: Ed25519PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProvedService:
    """A service that proved what it runs, on what, and what it serves.

    ``report_data`` (64 bytes) is what its evidence carries: this very session, its key ``kem`` and its statement.
    """

    statement: Statement
    result: AttestationResult
    evidence: EvidenceBundle
    report_data: bytes
    kem: bytes = field(repr=False)


class ClientSession:
    """One attempt at one session; after any error it is of no more use.

    ``model_sha256`` is the model that must be served; None takes whichever the attested service names.
    """

    def __init__(self, federation: Federation, model_sha256: bytes | None = None) -> None:
        self._federation = federation
        self._model_sha256 = model_sha256
        self._kem = SealingKey.generate()
        self._nonce = token_bytes(32)
        self._secret = token_bytes(32)
        self._frames: list[bytes] = []
        self._service: ProvedService | None = None
        self._records: RecordLayer | None = None
        self._sent: tuple[bytes, int] | None = None
        self.state = State.START

    @property
    def service(self) -> ProvedService:
        """The service that proved itself."""
        if self._service is None:
            raise RuntimeError("nobody has proved anything on this session")
        return self._service

    def begin(self) -> bytes:
        """The question: a nonce and two digests."""
        if self.state is not State.START:
            raise RuntimeError("a session begins once")
        self.state = State.AWAIT_PROOF
        charter, plan = self._federation.charter.digest, self._federation.plan.digest
        return self._note(pack(Kind.QUESTION.value, self._nonce, charter, plan))

    def take_proof(self, frame: bytes, now: datetime) -> ProvedService:
        """Verify the service's proof, and say nothing yet.

        Raises:
            ProtocolError: it does not hold; nothing but a nonce was sent.
        """
        self._advance(frame, Kind.PROOF)
        try:
            self._service = self._verified(frame, now)
        except ProtocolError:
            self.state = State.CLOSED
            raise
        self._note(frame)
        return self._service

    def open(self, asker: Asker) -> bytes:
        """The frame that names and signs who asks, sealed to the key that was proved."""
        question, proved = self._frames
        signed = client_signed((question, proved), self._kem.public, self._secret, asker.member)
        key = asker.key.public_key().public_bytes_raw()
        fields = (self._secret, self._kem.public, name_field(asker.member), key, asker.key.sign(signed))
        body = pack("cloister/scoring-open-body/v1", *fields)
        sealed = hpke.seal(self.service.kem, body, b"scoring-open", sha256(question), sha256(proved))
        return self._note(pack(Kind.OPEN.value, sealed))

    def take_welcome(self, frame: bytes) -> None:
        """Open the welcome: requests may follow.

        Raises:
            ProtocolError: the service, or who pretends to be it, refused; or another key made this.
        """
        self._advance(frame, Kind.WELCOME)
        (sealed,) = unpack(frame, Kind.WELCOME.value, 1)
        body = self._kem.open(sealed, b"scoring-welcome", *(sha256(earlier) for earlier in self._frames))
        secret_s, session_id = unpack(body, "cloister/scoring-welcome-body/v1", 2)
        exactly(session_id, 16, "welcome.session_id")
        secrets = SessionSecrets(self._secret, exactly(secret_s, 32, "welcome.secret_s"), (*self._frames, frame))
        self._records = RecordLayer(secrets, Direction.TO_SERVICE, session_id)

    def ask(self, values: Table) -> bytes:
        """The record that asks for scores of ``values``, float64[rows, inputs]; one at a time."""
        if self._records is None or self.state is not State.OPEN:
            raise RuntimeError("the session is not open, or a request waits for its answer")
        if values.ndim != 2 or values.shape[1] != len(self.service.statement.declaration.inputs):
            raise ValueError("values: float64[rows, inputs] expected")
        plaintext = Request(values).encode()
        self._sent = plaintext, len(values)
        self.state = State.AWAIT_ANSWER
        return self._records.seal(plaintext)

    def take_answer(self, frame: bytes) -> Table:
        """The scores, float64[rows, outputs], that answer the request that waits.

        Raises:
            ScoringRefused: the service gave a reason instead; the session goes on.
            ProtocolError: replayed, swapped, altered, or to another request; the session is over.
        """
        self._advance(frame, Kind.RECORD)
        if self._records is None or self._sent is None:
            raise RuntimeError("the state table lets no answer in before a request")
        (plaintext, rows), self._sent = self._sent, None
        try:
            answer = self._records.open(frame)
        except ProtocolError:
            self.state = State.CLOSED
            raise
        return decode_answer(answer, plaintext, self.service.statement.declaration, rows)

    def _advance(self, frame: bytes, wanted: Kind) -> None:
        try:
            kind = Kind.of(frame)
            if kind is Kind.REFUSE:
                raise read_refusal(frame)
            following = successor(CLIENT_TABLE, self.state, kind)
            if kind is not wanted:
                raise ChannelError(Reason.UNEXPECTED_MESSAGE, f"frame: {wanted.name} expected")
        except ProtocolError:
            self.state = State.CLOSED
            raise
        self.state = following

    def _verified(self, frame: bytes, now: datetime) -> ProvedService:
        # 1. Fields of the right size. 2. S as this side sees it, and evidence bound to it. 3. The plan's own app.
        # 4. The model that was asked for, where one was.
        evidence, kem, nonce_s, boot, encoded = unpack(frame, Kind.PROOF.value, 5)
        offered = Offered(
            exactly(kem, hpke.PUBLIC_BYTES, "proof.kem_s"),
            exactly(nonce_s, 32, "proof.nonce_s"),
            exactly(boot, 16, "proof.boot_s"),
            encoded,
        )
        charter, plan = self._federation.charter, self._federation.plan
        transcript = proof(offered, self._nonce, charter.digest, plan.digest)
        bundle = EvidenceBundle.decode(evidence)
        result = self._federation.appraise(RECIPIENT, bundle, transcript, now)
        statement = Statement.decode(encoded)
        if statement.bundle_sha256 != plan.document.app.bundle_sha256:
            raise ChannelError(Reason.SCORING_RELEASE, "proof.bundle: the app that the plan pins expected")
        if self._model_sha256 is not None and statement.model_sha256 != self._model_sha256:
            raise ChannelError(Reason.SCORING_RELEASE, "proof.model_sha256: the service serves another model")
        statement.declaration.require_within(plan.document.dataset.columns)
        bound = report_data(transcript.over(bundle.devices))
        return ProvedService(statement, result, bundle, bound, kem)

    def _note(self, frame: bytes) -> bytes:
        self._frames.append(frame)
        return frame
