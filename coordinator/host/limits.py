"""How much of the host one peer may use. Trust zone: host. These protect liveness, and nobody's data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from trusted.errors import Reason, RunError

CHUNK_BYTES = 1 << 20  # measured: the best message size for gRPC streams
MAX_FRAME_BYTES = 1 << 20  # one record (trusted.wire.MAX_RECORD_BYTES)
MAX_ORDER_BYTES = 64 << 10
MAX_MESSAGE_BYTES = 4 << 20
MAX_EVENT_BYTES = 64 << 10
MAX_COLLATERAL_BYTES = 256 << 10
MAX_COLLATERAL_FILES = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound that an operator may move. Each names what it stops."""

    streams_per_peer: int = 64  # one address taking all streams; sites behind one proxy share an address
    sessions_per_plan: int = 4096  # an aggregator drowned in sessions
    frames_before_admission: int = 8  # work done for a peer that proved nothing; a handshake takes two
    handshake_s: float = 150.0  # streams that are opened and left
    queued_frames: int = 64  # memory for a worker that does not read
    queued_bytes: int = 1 << 20
    spool_bytes: int = 256 << 30  # a full disk
    free_disk_bytes: int = 1 << 30  # what stays free whatever is announced
    pool_bytes: int = 4 << 30  # used files that are kept to be used again
    downloads: int = 8  # memory: so many blobs are sent at a time, the others wait their turn
    uploads: int = 8  # memory: so many uploads are taken in at a time, the others wait their turn
    upload_window_bytes: int = 4 << 20  # memory of an upload before it is on disk; twice that for a moment
    stall_s: float = 120.0  # a transfer that neither ends nor moves
    runs: int = 10_000  # a store that grows for ever


class PeerGate:
    """Counts the open streams of each peer address."""

    def __init__(self, streams_per_peer: int) -> None:
        self._limit = streams_per_peer
        self._open: Counter[str] = Counter()

    @contextmanager
    def enter(self, peer: str) -> Iterator[None]:
        """Hold one stream of ``peer`` (gRPC's ``ipv4:1.2.3.4:5678``; the port does not tell peers apart).

        Raises:
            RunError: the peer holds as many as it may.
        """
        address = peer.rpartition(":")[0] or peer
        if self._open[address] >= self._limit:
            raise RunError(Reason.QUOTA, f"peer: at most {self._limit} streams at a time")
        self._open[address] += 1
        try:
            yield
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]
