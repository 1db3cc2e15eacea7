"""A TEE fetches a content key from its member's broker over gRPC. Trust zone: outside the session; a shell of the TEE.

The broker's host and the network may lie, cut and stall. What counts as the key is decided by `trusted.keys`; nothing
of it is ever written or logged. gRPC is imported when it is used: it starts threads, and a worker forks its trainer
before it has any, so :func:`fetch_key_apart` asks in a process of its own.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn

from trusted.blob import KEY_BYTES, ContentKey
from trusted.channel.refusal import PeerRefused
from trusted.documents.charter import VerifiedCharter
from trusted.documents.grant import verify_grant
from trusted.errors import KeyReleaseError, ProtocolError, Reason, RunError
from trusted.keys.requester import GrantedKey, KeyRequester
from trusted.wire import exactly, label_of, pack, unpack

Ask = Callable[[], KeyRequester]  # a fresh request, each time that one is made
_FIELD = "options.key_broker"
_ANSWER_S = 100.0  # a little more than a broker gives an exchange
_PAUSE_S = 2.0
_MAX_FETCHED_BYTES = 1 << 16
_FETCHED = "cloister/fetched-key/v1"
_FAILED = "cloister/fetch-failed/v1"
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
            return _exchange(address, ask())
        except ProtocolError as error:
            said = error.peer_reason if isinstance(error, PeerRefused) else error.reason
            if said not in _PASSING or time.monotonic() + _PAUSE_S > until:
                raise
        time.sleep(_PAUSE_S)


def fetch_key_apart(
    address: BrokerAddress, ask: Ask, charter: VerifiedCharter, *, patience_s: float = 60.0
) -> GrantedKey:
    """As :func:`fetch_key`, in a forked process that ends with it: this one gets no thread, no gRPC and no other key.

    ``ask`` runs there, and may read the credential's key there. To be called where nothing has started a thread yet.

    Raises:
        ProtocolError: as :func:`fetch_key`; a refusal by the broker comes as PEER_REFUSED in words.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(reading)
        _speak(writing, address, ask, patience_s)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            said = pipe.read(_MAX_FETCHED_BYTES)
    finally:
        os.waitpid(child, 0)
    return _heard(said, charter)


def _exchange(address: BrokerAddress, requester: KeyRequester) -> GrantedKey:
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
                    return requester.granted
                outbox.put(keys_pb2.KeyFrame(data=reply))
        except grpc.RpcError as error:
            raise refusal_of(error, _FIELD) from None
        finally:
            outbox.put(None)
            call.cancel()
    raise RunError(Reason.UNREACHABLE, f"{_FIELD}: the stream ended without an answer")


def _speak(writing: int, address: BrokerAddress, ask: Ask, patience_s: float) -> NoReturn:
    """The whole life of the process that asks: one record into the pipe, whatever happens."""
    record = pack(_FAILED, _number(Reason.UNREACHABLE), b"the process that asked failed")
    try:
        granted = fetch_key(address, ask, patience_s=patience_s)
        record = pack(_FETCHED, granted.key.secret, granted.grant.envelope)
    except ProtocolError as error:
        record = pack(_FAILED, _number(error.reason), error.detail.encode())
    except OSError as error:
        record = pack(_FAILED, _number(Reason.MISSING_FIELD), f"{error.filename}: {error.strerror}".encode())
    finally:
        with suppress(OSError), open(writing, "wb") as pipe:
            pipe.write(record[:_MAX_FETCHED_BYTES])
        os._exit(0)


def _heard(said: bytes, charter: VerifiedCharter) -> GrantedKey:
    if not said:
        raise RunError(Reason.UNREACHABLE, f"{_FIELD}: the process that asked was ended")
    if label_of(said) == _FAILED:
        number, detail = unpack(said, _FAILED, 2)
        raise KeyReleaseError(Reason(int.from_bytes(number, "big")), detail.decode(errors="replace"))
    secret, envelope = unpack(said, _FETCHED, 2)
    return GrantedKey(ContentKey(exactly(secret, KEY_BYTES, "key")), verify_grant(envelope, charter))


def _number(reason: Reason) -> bytes:
    return int(reason).to_bytes(2, "big")
