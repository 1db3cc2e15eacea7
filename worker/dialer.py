"""How a worker reaches its coordinator: it dials out on one port, and never listens. Trust zone: outside the session.

Everything that passes here is a sealed record, a sealed blob, or a name; host and network may lie, cut and replay.
A cut transfer goes on where it stopped, as long as it moves.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from protos.chunks import as_bytes, decode_chunk, put_chunk_head
from protos.v1 import cloister_pb2, cloister_pb2_grpc
from trusted.blob import BlobHeader
from trusted.errors import BlobError, ProtocolError, Reason, RunError
from worker.grpc_channel import HostAddress, is_cut, refusal_of
from worker.http_blobs import Cut as HttpCut
from worker.http_blobs import HttpBlobs, PortAway, Wanted

MESSAGE_BYTES = 4 << 20  # measured: a third less work for each byte than with 1 MiB, and more gains nothing
_PROGRESS_BYTES = 1 << 20
_PIECES_A_MESSAGE = 4
_QUEUED_FRAMES = 32
_STAT_TIMEOUT_S = 30.0
_ASK_AGAIN_S = 60.0  # of a blob port that was not reached, or was not there
_HTTP_FAILURES = 3  # in a row, without a byte more: something on the way lets connections through and breaks them
_HTTP_FROM_BYTES = 64 << 10  # below it a connection of its own costs more than it saves
_MAX_BACKOFF_S = 5.0
_GOODBYE_S = 2.0  # for a host to take what was sent, and end the stream too
_END = None

Progress = Callable[[int], None]


class Sealed(Protocol):
    """A blob that is read as it is sent, and again, the same bytes, when it is sent again."""

    def __len__(self) -> int:
        """All of it."""

    def stretches(self, offset: int = 0) -> Iterator[memoryview]:
        """The bytes from ``offset`` on, at most about 4 MiB at a time, each good until the next."""


@dataclass(frozen=True, slots=True)
class _Held:
    """One that is in memory."""

    view: memoryview

    def __len__(self) -> int:
        return len(self.view)

    def stretches(self, offset: int = 0) -> Iterator[memoryview]:
        for start in range(offset, len(self.view), MESSAGE_BYTES):
            yield self.view[start : start + MESSAGE_BYTES]


def silent(sent_bytes: int) -> None:
    """Progress that nobody watches."""


def unheard(event: str, **fields: object) -> None:
    """A note that nobody reads."""


class FrameStream:
    """One attachment to the plan's aggregator. One thread may send while another receives."""

    def __init__(self, stub: Any, plan_digest: bytes) -> None:
        self._outbox: queue.Queue[bytes | None] = queue.Queue(_QUEUED_FRAMES)
        self._inbox: queue.Queue[bytes | None] | None = None
        self._over = threading.Event()
        self._closed = threading.Event()
        self._received = False
        self._refusal: ProtocolError | None = None
        self._call = stub.Attach(self._outgoing(), metadata=(("cloister-plan", plan_digest.hex()),))

    def __enter__(self) -> FrameStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def refusal(self) -> ProtocolError | None:
        """Why the stream ended, once :meth:`receive` has given None; None after an orderly end."""
        return self._refusal

    def send(self, frame: bytes) -> None:
        """Pass ``frame`` on, waiting while the host is behind. After the end nothing is sent: ``receive`` tells it."""
        _put(self._outbox, frame, self._over)

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The next frame; None, now and ever after, when the stream has ended.

        Straight from gRPC, which knows no ``timeout``: for the first who has one, and all after, a thread waits there.

        Raises:
            TimeoutError: none came within ``timeout`` seconds.
        """
        self._received = True
        if timeout is not None and self._inbox is None:
            self._pump_into(queue.Queue(_QUEUED_FRAMES))
        if self._inbox is None:
            return self._next()
        try:
            frame = self._inbox.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError("no frame arrived in time") from None
        if frame is _END:
            self._inbox.put(_END)  # for whoever asks again
        return frame

    def close(self) -> None:
        """End the stream: what was sent still leaves, what arrives no longer matters."""
        self._closed.set()
        if not self._received:  # somebody has to hear of the end
            self._pump_into(queue.Queue(_QUEUED_FRAMES))
        if not self._over.is_set():
            try:
                self._outbox.put(_END, timeout=1.0)
            except queue.Full:
                self._call.cancel()
            self._over.wait(_GOODBYE_S)  # this may be the last that the process does

    def _outgoing(self) -> Iterator[Any]:
        while True:
            frame = self._outbox.get()
            if frame is _END:
                return
            yield cloister_pb2.Frame(data=frame)

    def _pump_into(self, inbox: queue.Queue[bytes | None]) -> None:
        def pump() -> None:
            while (frame := self._next()) is not _END:
                _put(inbox, frame, self._closed)
            _put(inbox, _END, self._closed)

        self._inbox = inbox
        threading.Thread(target=pump, name="frames", daemon=True).start()

    def _next(self) -> bytes | None:
        try:
            for frame in self._call:
                data: bytes = frame.data
                return data
        except grpc.RpcError as error:
            self._refusal = refusal_of(error)
        self._over.set()
        with suppress(queue.Full):  # wakes gRPC's own thread, should it wait for something to send
            self._outbox.put_nowait(_END)
        return _END


def _put(box: queue.Queue[bytes | None], item: bytes | None, given_up: threading.Event) -> None:
    """Put ``item`` into a bounded queue, waiting for room until ``given_up``."""
    while not given_up.is_set():
        with suppress(queue.Full):
            box.put(item, timeout=0.5)
            return


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a transfer may be cut: without end while bytes move, ``attempts`` times in a row while none do."""

    attempts: int = 12
    backoff_s: float = 0.5  # doubled after each failure, up to 5 seconds


@dataclass(slots=True)
class _Attempts:
    """One transfer's attempts."""

    patience: Patience
    failures: int = 0
    reached: int = -1

    def after(self, error: grpc.RpcError | HttpCut, reached: int) -> None:
        """Wait before the next attempt.

        Raises:
            ProtocolError: the host refused, or attempts are used up.
        """
        self.failures = 1 if reached > self.reached else self.failures + 1
        self.reached = max(reached, self.reached)
        if isinstance(error, HttpCut):
            refusal, again = error.refusal, True
        else:
            refusal, again = refusal_of(error), is_cut(error)
        if not again or self.failures >= self.patience.attempts:
            raise refusal from None
        time.sleep(min(self.patience.backoff_s * 2 ** (self.failures - 1), _MAX_BACKOFF_S))


_PATIENT = Patience()


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a reader wants a blob cut: ``first_bytes`` from its start, then every ``chunk_bytes``; 0: anywhere."""

    first_bytes: int = 0
    chunk_bytes: int = 0

    def first_from(self, offset: int) -> int:
        """How many bytes to ask for first, from ``offset`` on, which may lie within a piece."""
        gone = offset - self.first_bytes
        return -gone if gone < 0 else self.chunk_bytes - gone % self.chunk_bytes

    def request(self, name: Any, offset: int) -> Any:
        """The ``GetRequest`` for the rest from ``offset`` on."""
        if not self.chunk_bytes:
            return cloister_pb2.GetRequest(name=name, offset=offset)
        first = self.first_from(offset)
        return cloister_pb2.GetRequest(name=name, offset=offset, first_bytes=first, chunk_bytes=self.chunk_bytes)


_ANY_CUT = Cut()


class Dialer:
    """A worker's way to one plan at one host."""

    def __init__(
        self,
        target: str,
        ca_pem: bytes | None,
        plan_digest: bytes,
        *,
        proxy: str | None = None,
        patience: Patience = _PATIENT,
        note: Callable[..., None] = unheard,
    ) -> None:
        self._plan = plan_digest
        self._metadata = (("cloister-plan", plan_digest.hex()),)  # hosts share their turns out by plan
        self._patience = patience
        self._address = HostAddress(target, ca_pem, proxy)
        self._note = note
        self._channel = self._address.open()
        self._relay = cloister_pb2_grpc.RelayStub(self._channel)
        self._blobs = cloister_pb2_grpc.BlobsStub(self._channel)
        self._http: HttpBlobs | None = None
        self._ask_again_at = 0.0
        self._noted = False
        self._closed = False
        self._asking = threading.Lock()
        self._put = self._channel.stream_unary("/cloister.v1.Blobs/Put", as_bytes, cloister_pb2.BlobState.FromString)

    def __enter__(self) -> Dialer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections and every stream on them."""
        self._closed = True
        if (http := self._http) is not None:
            http.close()
        self._channel.close()

    @property
    def channel(self) -> grpc.Channel:
        """The connection itself, for what else the host serves."""
        return self._channel

    def attach(self) -> FrameStream:
        """A new stream to the plan's aggregator. That nobody answers shows as its end, with a ``refusal``."""
        return FrameStream(self._relay, self._plan)

    def put_blob(
        self, blob: bytes, sealed: bytes | bytearray | memoryview | Sealed, progress: Progress = silent
    ) -> None:
        """Store all of ``sealed`` under the announced name ``blob``, from where an earlier attempt stopped.

        ``progress`` is told how many bytes have left. Repeating a finished upload is harmless.

        Raises:
            ProtocolError: the host refuses (no such name, another size), stays out of reach, or what is raised where
                ``sealed`` is read.
        """
        whole = _Held(memoryview(sealed)) if isinstance(sealed, bytes | bytearray | memoryview) else sealed
        attempts = _Attempts(self._patience)
        while True:
            received = 0
            try:
                if len(whole) > _PROGRESS_BYTES:  # what is small is sent again rather than asked for
                    state = self._blobs.Stat(self._name(blob), timeout=_STAT_TIMEOUT_S)
                    received = _require_size(state, len(whole))
                if received < len(whole):
                    received = self._send(blob, whole, received, progress)
            except (grpc.RpcError, HttpCut) as error:
                attempts.after(error, received)
                if isinstance(error, HttpCut) and attempts.failures >= _HTTP_FAILURES:
                    self._do_without(self._http, PortAway("its connections break"))
                continue
            except ValueError:  # gRPC's word for a closed channel
                if not self._closed:
                    raise
                raise closed_here() from None
            if received != len(whole):
                raise RunError(
                    Reason.BLOB_OFFSET, "blob: the host took the upload and holds less than all of it, or more"
                )
            progress(received)
            return

    def _send(self, blob: bytes, whole: Sealed, offset: int, progress: Progress) -> int:
        """Send the rest of a blob, over HTTP where the host has that; how much of it the host then has."""
        http = self._over_http(len(whole) - offset)
        if http is not None:
            try:
                wanted = Wanted(self._plan, blob, offset, len(whole) - offset)
                return http.put(wanted, _telling(whole.stretches(offset), offset, progress))
            except PortAway as away:
                self._do_without(http, away)
        faults = list[Exception]()
        messages = _until_fault(self._chunks(blob, whole, offset, progress), faults)
        try:
            received = _require_size(self._put(messages, metadata=self._metadata), len(whole))
        except grpc.RpcError:
            if not faults:
                raise
            received = offset
        if faults:
            raise faults[0]
        return received

    def get_blob(self, blob: bytes, offset: int = 0, *, header: BlobHeader | None = None) -> Iterator[memoryview]:
        """The stored bytes from ``offset`` to the end, each given once; cut where the pieces of ``header`` begin.

        Raises:
            ProtocolError: the host has no such blob, or stays out of reach.
        """
        cut = _ANY_CUT
        if header is not None:
            pieces_bytes = _PIECES_A_MESSAGE * header.segment_bytes
            cut = Cut(header.prefix_bytes + pieces_bytes, pieces_bytes)
            if (http := self._over_http(header.sealed_bytes - offset)) is not None:
                try:
                    for data in self._received(http, blob, offset, header.sealed_bytes, cut):
                        offset += len(data)
                        yield data
                    return
                except PortAway as away:
                    self._do_without(http, away)
        yield from get_blob(self._channel, self._name(blob), offset, cut=cut, patience=self._patience)

    def _received(self, http: HttpBlobs, blob: bytes, offset: int, end: int, cut: Cut) -> Iterator[memoryview]:
        attempts = _Attempts(self._patience)
        while True:
            first, then = cut.first_from(offset), cut.chunk_bytes
            try:
                wanted = Wanted(self._plan, blob, offset, end - offset)
                for data in http.get(wanted, first_bytes=first, then_bytes=then):
                    offset += len(data)
                    yield data
                return
            except HttpCut as error:
                attempts.after(error, offset)
                if attempts.failures >= _HTTP_FAILURES:
                    raise PortAway("its connections break") from None

    def _over_http(self, size_bytes: int) -> HttpBlobs | None:
        """The host's blob port, for what is large enough; None where it has none, or none that is reached."""
        if size_bytes < _HTTP_FROM_BYTES:
            return None
        with self._asking:
            if self._http is None and time.monotonic() >= self._ask_again_at:
                try:
                    port = self._blobs.Http(cloister_pb2.HttpQuery(), timeout=_STAT_TIMEOUT_S).port
                except grpc.RpcError as error:
                    if is_cut(error):  # asked again with the next blob
                        return None
                    port = 0  # a host of before
                self._ask_again_at = time.monotonic() + _ASK_AGAIN_S
                self._http = HttpBlobs(self._address, port) if 0 < port < 1 << 16 else None
            return self._http

    def _do_without(self, http: HttpBlobs | None, away: PortAway) -> None:
        """The first port does all that the other one does; that one is tried again later."""
        if self._closed:
            raise closed_here()
        with self._asking:
            if self._http is http:  # else another transfer found out before
                self._http = None
                self._ask_again_at = time.monotonic() + _ASK_AGAIN_S
            said, self._noted = self._noted, True
        if not said:
            self._note("blob-port-away", detail=f"{away}; blobs go through the coordinator's first port, for more work")

    def _name(self, blob: bytes) -> Any:
        return cloister_pb2.BlobName(plan=self._plan, blob=blob)

    def _chunks(self, blob: bytes, sealed: Sealed, offset: int, progress: Progress) -> Iterator[bytes]:
        """The messages of an upload, written by hand: each byte is copied once, out of what ``sealed`` gives."""
        begin: bytes = cloister_pb2.PutChunk(name=self._name(blob), offset=offset).SerializeToString()
        for data in _telling(sealed.stretches(offset), offset, progress):
            yield b"".join((begin, put_chunk_head(len(data)), data))
            begin = b""  # the first message names the blob


def _until_fault(messages: Iterator[bytes], faults: list[Exception]) -> Iterator[bytes]:
    """``messages``, which gRPC takes on a thread of its own: what is raised there ends them, and is kept for here."""
    try:
        yield from messages
    except Exception as fault:
        faults.append(fault)


def closed_here() -> RunError:
    detail = "coordinator: closed at this end; the run went on without this transfer, and is over"
    return RunError(Reason.UNREACHABLE, detail)


def _telling(stretches: Iterator[memoryview], offset: int, progress: Progress) -> Iterator[memoryview]:
    """``stretches``, telling how much has left before each."""
    for data in stretches:
        for sent in range(offset, offset + len(data), _PROGRESS_BYTES):
            progress(sent)
        yield data
        offset += len(data)


def _require_size(state: Any, size_bytes: int) -> int:
    """How many bytes the host has, of a blob of ``size_bytes``."""
    if state.total_bytes != size_bytes:
        raise BlobError(Reason.BLOB_LAYOUT, "blob: the host expects another size under this name")
    received: int = state.received_bytes
    return received


def get_blob(
    channel: grpc.Channel, name: Any, offset: int = 0, *, cut: Cut = _ANY_CUT, patience: Patience = _PATIENT
) -> Iterator[memoryview]:
    """The bytes stored under ``name`` (a ``BlobName`` message), for callers that hold a channel of their own.

    Raises:
        ProtocolError: the host has no such blob, or stays out of reach.
    """
    attempts = _Attempts(patience)
    get = channel.unary_stream("/cloister.v1.Blobs/Get", cloister_pb2.GetRequest.SerializeToString, decode_chunk)
    while True:
        try:
            for data in get(cut.request(name, offset)):
                offset += len(data)
                yield data
            return
        except grpc.RpcError as error:
            attempts.after(error, offset)
