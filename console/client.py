"""What the command line asks of a coordinator host: orders, runs, events, sealed blobs. Trust zone: a member's machine.

A host may lie in every answer. What matters is proved elsewhere: a released model by its own evidence and seal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc

from coordinator.host.events import public_event
from coordinator.host.run_status import RunStatus
from protos.v1 import cloister_pb2, cloister_pb2_grpc
from trusted.errors import Reason, RunError
from worker.dialer import get_blob
from worker.grpc_channel import HostAddress, refusal_of

_TIMEOUT_S = 30.0
_QUIET_S = 2.0
_MAX_EVENTS = 1 << 20


@dataclass(frozen=True, slots=True)
class WatchedEvent:
    """Event ``number`` of a run (1, 2, 3…): what the host says, unproved."""

    number: int
    fields: Mapping[str, Any]


class HostClient:
    """One host. ``with`` closes the connection."""

    def __init__(self, target: str, ca_pem: bytes | None, *, proxy: str | None = None) -> None:
        self._channel = HostAddress(target, ca_pem, proxy).open()
        self._runs = cloister_pb2_grpc.RunsStub(self._channel)
        self._blobs = cloister_pb2_grpc.BlobsStub(self._channel)

    def __enter__(self) -> HostClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and every stream on it."""
        self._channel.close()

    def submit(self, envelope: bytes) -> RunStatus:
        """Hand in a signed order (DSSE JSON); how its run then stands.

        Raises:
            ProtocolError: the host refuses it, or is out of reach.
        """
        return _status(self._call(self._runs.Submit, cloister_pb2.SignedOrder(envelope=envelope)))

    def status(self, plan: bytes) -> RunStatus:
        """How the run of ``plan`` (its digest, 32 bytes) stands.

        Raises:
            ProtocolError: the host knows no such run, or is out of reach.
        """
        return _status(self._call(self._runs.Get, cloister_pb2.RunName(plan=plan)))

    def runs(self) -> list[RunStatus]:
        """Every run of this host.

        Raises:
            ProtocolError: the host is out of reach.
        """
        return [_status(item) for item in self._call(self._runs.List, cloister_pb2.ListRequest()).runs]

    def watch(self, plan: bytes, after: int = 0) -> Iterator[WatchedEvent]:
        """Every event behind number ``after`` and those to come, without end. Closing the iterator hangs up.

        Raises:
            ProtocolError: the host knows no such run, skips or repeats a number, or the stream was cut: call again with
                the number of the last event.
        """
        return self._events(plan, after, None)

    def recorded(self, plan: bytes) -> Iterator[WatchedEvent]:
        """Every event so far; it ends when the host has told none for a moment.

        Raises:
            ProtocolError: as :meth:`watch`, or the host tells more than any run can have.
        """
        after, before = 0, -1
        while after != before:
            before = after
            for event in self._events(plan, after, _QUIET_S):
                after = event.number
                if after > _MAX_EVENTS:
                    raise RunError(Reason.TOO_LARGE, f"events: at most {_MAX_EVENTS} expected")
                yield event

    def _events(self, plan: bytes, after: int, timeout_s: float | None) -> Iterator[WatchedEvent]:
        call = self._runs.Watch(cloister_pb2.WatchRequest(plan=plan, after=after), timeout=timeout_s)
        try:
            for event in call:
                after += 1
                if event.number != after:
                    raise RunError(Reason.MALFORMED, "event.number: the next number expected; the host lost events")
                yield WatchedEvent(event.number, shown_fields(event.json, plan))
        except grpc.RpcError as error:
            if timeout_s is None or call.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise refusal_of(error) from None
        finally:
            call.cancel()

    def get_blob(self, plan: bytes, blob: bytes) -> Iterator[memoryview]:
        """The sealed bytes under ``blob``, in pieces of at most 1 MiB; a cut download goes on where it stopped.

        Raises:
            ProtocolError: the host has no such blob, or stays out of reach.
        """
        return get_blob(self._channel, cloister_pb2.BlobName(plan=plan, blob=blob))

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise refusal_of(error) from None


def _status(message: Any) -> RunStatus:
    return RunStatus.decode(message.json)


def shown_fields(text: str, plan: bytes) -> Mapping[str, Any]:
    """The fields of an event that have the form which a host must give them; whatever else it wrote is dropped.

    The host's own allow-list is applied once more here, because a host that lies need not have applied it: nothing else
    stands between its words and a person's terminal.

    Raises:
        RunError: MALFORMED: no JSON object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RunError(Reason.MALFORMED, "event: a JSON object expected; is this a Cloister host?")
    return public_event(value, plan=plan, now=datetime.now(UTC)).fields
