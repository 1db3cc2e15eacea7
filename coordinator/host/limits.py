"""How much of the host one peer may use. Trust zone: host. These protect liveness, and nobody's data.

Many sites may stand behind one address: a hospital group's proxy, a carrier's NAT. What counts by address is therefore
sized for a group of 200 sites, and what a single peer could do with so much is bounded by its connection.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    streams_per_connection: int = 64  # one peer taking all streams; more wait at the peer, and cost nothing here
    streams_per_peer: int = 1024  # one address taking all streams; 200 sites behind one hold 600 at the busiest time
    calls_per_s: float = 400.0  # of one address for long: a peer that asks again and again
    calls_at_once: int = 4096  # and for a moment: 200 sites that begin a round together
    attaches_per_s: float = 8.0  # of one address for long: each costs the aggregator a piece of evidence
    attaches_at_once: int = 256  # and for a moment: 200 sites that come back together
    handshakes_per_peer: int = 256  # streams of one address that are not admitted yet
    watches_per_peer: int = 32  # of one address: people, of whom there are few
    calls: int = 16_384  # of all peers at a time
    connections: int = 8192  # descriptors and memory for peers that connect and say nothing
    sessions_per_plan: int = 4096  # an aggregator drowned in sessions
    frames_before_admission: int = 8  # work done for a peer that proved nothing; a handshake takes three
    bytes_before_admission: int = 2 << 20  # evidence of any size; a record, which holds it, is at most half of that
    handshake_s: float = 150.0  # streams that are opened and left
    connect_s: float = 20.0  # connections that never finish TLS
    idle_s: float = 600.0  # connections that carry no call; who has one to make connects again
    queued_frames: int = 64  # memory for a worker that does not read
    queued_bytes: int = 1 << 20
    spool_bytes: int = 256 << 30  # a full disk
    free_disk_bytes: int = 1 << 30  # what stays free whatever is announced
    pool_bytes: int = 4 << 30  # used files that are kept to be used again
    downloads: int = 8  # memory: so many blobs are sent at a time, the others wait their turn
    uploads: int = 8  # memory: so many uploads are taken in at a time, the others wait their turn
    upload_window_bytes: int = 4 << 20  # memory of an upload before it is on disk; twice that for a moment
    stall_s: float = 120.0  # a transfer that neither ends nor moves, a reader of frames or events that takes none
    crawl_bytes: int = 64 << 10  # a transfer that moves less in `stall_s`: one byte now and then
    drain_s: float = 30.0  # a host that is to stop, and transfers that do not end
    runs: int = 10_000  # a store that grows for ever
