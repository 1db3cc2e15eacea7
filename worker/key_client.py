"""A TEE fetches a content key from its member's broker over gRPC. Trust zone: outside the session; a shell of the TEE.

The broker's host and the network may lie, cut and stall. What counts as the key is decided by `trusted.keys`; nothing
of it is ever written or logged. gRPC is imported when it is used: it starts threads, and a worker forks its trainer
before it has any. So whoever imports this module does not import gRPC.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from trusted.channel.refusal import PeerRefused
from trusted.errors import ProtocolError, Reason, RunError
from trusted.keys.requester import GrantedKey, KeyRequester

Ask = Callable[[], KeyRequester]  # a fresh request, each time that one is made
_FIELD = "options.key_broker"
_ANSWER_S = 100.0  # a little more than a broker gives an exchange
_PAUSE_S = 2.0
# What passes by itself: the broker is away for a moment, or has much to do.
_PASSING = frozenset({Reason.UNREACHABLE, Reason.QUOTA, Reason.HANDSHAKE_TIMEOUT})


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """How a broker is reached; the fields are those of a coordinator's address."""

    target: str
    ca_pem: bytes | None = None
    proxy: str | None = None

    def __repr__(self) -> str:
        return f"BrokerAddress(target={self.target!r})"  # a proxy's password has no place in a log


def fetch_key(address: BrokerAddress, ask: Ask, *, patience_s: float = 60.0) -> GrantedKey:
    """The key that ``ask`` asks for. While the broker is away or busy it is asked again, for ``patience_s`` seconds.

    Raises:
        ProtocolError: the broker refuses (``PeerRefused``, by its word), does not prove that its key is the member's,
            or stays out of reach.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            requester = ask()
            carry(address, requester)
            return requester.granted
        except ProtocolError as error:
            said = error.peer_reason if isinstance(error, PeerRefused) else error.reason
            if said not in _PASSING or time.monotonic() + _PAUSE_S > until:
                raise
        time.sleep(_PAUSE_S)


def carry(address: BrokerAddress, requester: KeyRequester) -> None:
    """Carry one exchange to its end; afterwards ``requester`` is done.

    Raises:
        ProtocolError: as :func:`fetch_key`, at the first failure.
    """
    import grpc

    from protos.v1 import keys_pb2, keys_pb2_grpc
    from worker.grpc_channel import HostAddress, refusal_of

    outbox: queue.SimpleQueue[object] = queue.SimpleQueue()
    outbox.put(keys_pb2.KeyFrame(data=requester.begin()))
    with HostAddress(address.target, address.ca_pem, address.proxy).open() as channel:
        call = keys_pb2_grpc.KeysStub(channel).Release(iter(outbox.get, None), timeout=_ANSWER_S)
        try:
            for frame in call:
                reply = requester.receive(frame.data, datetime.now(UTC))
                if reply is None:
                    return
                outbox.put(keys_pb2.KeyFrame(data=reply))
        except grpc.RpcError as error:
            raise refusal_of(error, _FIELD) from None
        finally:
            outbox.put(None)
            call.cancel()
    raise RunError(Reason.UNREACHABLE, f"{_FIELD}: the stream ended without an answer")
