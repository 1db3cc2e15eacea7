"""Asking a scoring service over gRPC. Trust zone: a recipient's machine; host and network may lie, cut and replay.

Every row is sealed to a key that the service proved; what is not proved is not said (``trusted.scoring.client``).
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from threading import Timer
from typing import Any

import grpc

from console.documents import present
from protos.v1 import scoring_pb2, scoring_pb2_grpc
from trusted.channel.federation import Federation
from trusted.errors import Reason, RunError
from trusted.scoring.client import Asker, ClientSession, ProvedService
from trusted.scoring.messages import Table
from worker.grpc_channel import HostAddress, refusal_of

_ANSWER_S = 120.0
_END = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: by which documents, and which model; None takes whichever an attested service names."""

    federation: Federation
    model_sha256: bytes | None = None


class ScoringClient:
    """One session with one service. A ``with`` block; :meth:`prove` first, then :meth:`admit`, then :meth:`score`."""

    def __init__(self, address: HostAddress, wanted: Wanted) -> None:
        self._address = address
        self.federation = wanted.federation
        self._session = ClientSession(wanted.federation, wanted.model_sha256)
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._channel: grpc.Channel | None = None
        self._call: Any = None

    def __enter__(self) -> ScoringClient:
        self._channel = self._address.open()
        stub = scoring_pb2_grpc.ScoringStub(self._channel)
        self._call = stub.Attach(iter(self._outbox.get, _END))
        return self

    def __exit__(self, *_: object) -> None:
        self._outbox.put(_END)
        if self._call is not None:
            self._call.cancel()
        if self._channel is not None:
            self._channel.close()

    def prove(self) -> ProvedService:
        """Have the service prove itself; nothing but a nonce and two digests was said before.

        Raises:
            ProtocolError: it does not, or it is out of reach.
        """
        return self._session.take_proof(self._told(self._session.begin()), present())

    def admit(self, asker: Asker) -> None:
        """Say who asks, to the service that proved itself.

        Raises:
            ProtocolError: it refuses.
        """
        self._session.take_welcome(self._told(self._session.open(asker)))

    def score(self, values: Table) -> Table:
        """The scores, float64[rows, outputs], of ``values``, float64[rows, inputs].

        Raises:
            ScoringRefused: by the service's word; another request may follow.
            ProtocolError: the session is over.
        """
        return self._session.take_answer(self._told(self._session.ask(values)))

    def _told(self, frame: bytes) -> bytes:
        """Send ``frame``, and wait for the one that answers it."""
        self._outbox.put(scoring_pb2.ScoringFrame(data=frame))
        try:
            answer = _within(self._call, _ANSWER_S)
        except grpc.RpcError as error:
            raise refusal_of(error, "service") from None
        if answer is None:
            raise RunError(Reason.UNREACHABLE, "service: the stream ended without an answer")
        return bytes(answer.data)


def _within(call: Any, timeout_s: float) -> Any:
    """The next message of ``call``, None at its end; a service that stalls has its call cancelled."""
    timer = Timer(timeout_s, call.cancel)
    timer.daemon = True
    timer.start()
    try:
        return next(call, None)
    finally:
        timer.cancel()
