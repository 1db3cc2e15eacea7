"""What a host remembers, as a seam: SQLite for one host, PostgreSQL for replicas that share it. Trust zone: host.

Nothing here is secret, and nothing here is believed by anybody else. Each write is one transaction. What another
replica wrote arrives as a :class:`Change`, which says where to look and carries nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum, unique
from typing import Protocol

from trusted.errors import Reason, WireError


@unique
class Origin(Enum):
    """Who writes a blob: a worker that uploads it, or the aggregator through its door."""

    WORKER = "worker"
    AGGREGATOR = "aggregator"


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob that was announced or begun.

    ``total_bytes`` is None while the aggregator still writes it. ``shared``: all of it lies in the object store, where
    every replica finds it. ``received_bytes`` are known to be in this host's own file; there may be more, which then
    arrive again.
    """

    plan: bytes
    blob: bytes
    origin: Origin
    total_bytes: int | None
    shared: bool = False
    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EventSource:
    """Which event this is to whoever reported it: its token (16 bytes), and 1, 2, 3… under that token."""

    token: bytes
    sequence: int

    def __post_init__(self) -> None:
        if not 0 < self.sequence < 1 << 63:
            raise WireError(Reason.TOO_LARGE, "EVENT: a sequence number of 1 to 2^63 - 1 expected")


@dataclass(frozen=True, slots=True)
class StoredOrder:
    """An order that was verified and honoured."""

    nonce: bytes
    plan: bytes
    action: str
    envelope: bytes


@dataclass(frozen=True, slots=True)
class StoredRun:
    """What the hosts themselves counted for one plan, and the envelopes of the orders that stand.

    ``hold_order`` is the newest order to pause or to resume; ``hold_action`` says which of the two it is.
    """

    plan: bytes
    bytes_in: int
    bytes_out: int
    start_order: bytes | None
    stop_order: bytes | None
    hold_order: bytes | None = None
    hold_action: str | None = None


STANDING = {"start": "start_nonce", "stop": "stop_nonce", "pause": "hold_nonce", "resume": "hold_nonce"}
"""The column of a run in which an order of this action stands until a newer one of the same column is honoured."""


@unique
class ChangeKind(Enum):
    """What another replica did."""

    EVENT = "event"
    ORDER = "order"
    SHARED = "shared"  # a blob lies in the object store now
    DISCARDED = "discarded"
    MISSED = "missed"  # nobody listened for a while: look at everything


@dataclass(frozen=True, slots=True)
class Change:
    """Something that another replica wrote. ``plan`` and ``blob`` are empty where none is meant."""

    kind: ChangeKind
    plan: bytes = b""
    blob: bytes = b""


class HostState(Protocol):
    """The host's memory. It survives a restart.

    Every method raises :class:`RunError` (STORE_AWAY) when the database cannot be reached, or HOST_SHORT when its disk
    is full; what it was to write is then unwritten, or written once.
    """

    async def close(self) -> None:
        """Let go of the database; everything that was written stays."""

    def changes(self) -> AsyncIterator[Change]:
        """What other replicas write from now on; ends at once where there can be none."""

    async def blobs(self) -> list[StoredBlob]:
        """Every blob, for a host that starts."""

    async def blob(self, plan: bytes, blob: bytes) -> StoredBlob | None:
        """One blob, or None."""

    async def add_blob(self, blob: StoredBlob) -> StoredBlob:
        """Remember ``blob`` unless its name is known; the one that stands, which may differ."""

    async def finish_blob(self, blob: StoredBlob) -> bool:
        """Note the size of ``blob``, now that it is known, and whether it is shared. False: it was forgotten."""

    def note_received(self, blob: StoredBlob) -> None:
        """Note how far ``blob`` is in this host's own file, at once. A state that replicas share may forget it."""

    async def delete_blob(self, plan: bytes, blob: bytes) -> bool:
        """Forget a blob. False: nobody knew it."""

    async def append_event(self, plan: bytes, json: str, source: EventSource | None = None) -> bool:
        """Store one public event under the next number of its plan: 1, 2, 3… without gaps, over all replicas.

        False, and nothing is stored, when an event of this ``source`` is there already. Makes the run if there is none.
        """

    async def events(self, plan: bytes, after: int, limit: int = 256) -> list[tuple[int, str]]:
        """At most ``limit`` events (number, JSON) behind number ``after``, in order and without gaps."""

    async def runs(self) -> list[StoredRun]:
        """Every run, in the order of its plan digest."""

    async def add_bytes(self, plan: bytes, bytes_in: int, bytes_out: int) -> None:
        """Add what a finished stream carried to and from a host."""

    async def honour_order(self, order: StoredOrder) -> None:
        """Use up the nonce of ``order`` and let it stand for its run, both or neither. Makes the run if there is none.

        Raises:
            RunError: ORDER_REPLAYED: the nonce was used before, at whichever replica.
        """
