"""The doors of every replica of the host: dialled, kept, dialled again. Trust zone: aggregator TEE's shell.

Rules:
 1. Each door has a thread that dials it, registers, and passes on what comes; all else happens on one thread, the
    shell's. A door that breaks ends its own sessions and no others.
 2. Any replica may be gone, slow or lying. What one cannot do, the next is asked for; it fails when none is left.
 3. Public events go through one door at a time, numbered. What that replica has not acknowledged when its door breaks,
    or after a while, is told again through the next; hosts store a number once. So no event is lost, and none is there
    twice, unless the replica that speaks acknowledges what it does not store.
"""

from __future__ import annotations

import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from secrets import token_bytes

from coordinator.door import TOKEN_BYTES, Address, Decline, DoorKind, DoorMessage, DoorRole, Registration
from coordinator.door_socket import DoorConnection, connect
from coordinator.enclave.door_store import DoorStore, StoreRefused
from coordinator.enclave.workshop import Finish
from trusted.errors import ProtocolError, Reason
from trusted.floe import Buffer

MAX_DOORS = 16
_REDIAL_S = 0.25
_STALL_S = 150  # a replica that neither takes nor gives for so long is gone: longer than it may itself wait for a store
_NO_ROOM_NOW = frozenset({int(Reason.QUOTA), int(Reason.STORE_AWAY), int(Reason.HOST_SHORT)})
_SILENCE_S = 10  # of a replica that has events to acknowledge and acknowledges none
_MAX_UNHEARD = 4096  # events that no replica acknowledged; beyond, the oldest are given up

Note = Callable[..., None]


class Link:
    """The live connections to one door, until one of them breaks."""

    def __init__(self, address: Address, plan: bytes, token: bytes) -> None:
        self.address = address
        self.control = _register(address, Registration(plan, DoorRole.CONTROL, token), socket.SO_SNDTIMEO)
        registration = Registration(plan, DoorRole.DATA, token)
        self.store = DoorStore(self.control, partial(_register, address, registration, socket.SO_RCVTIMEO))
        self.is_broken = False
        self.told = 0  # the number of the newest event that went through it

    def __repr__(self) -> str:
        return f"Link({self.address})"

    def close(self) -> None:
        """End all, from any thread; the door's own thread wakes up, says that the link is over, and dials again."""
        self.is_broken = True
        self.control.close()
        self.store.close()


def _register(address: Address, registration: Registration, waits: int) -> DoorConnection:
    sock = connect(address)
    sock.setsockopt(socket.SOL_SOCKET, waits, struct.pack("ll", _STALL_S, 0))
    connection = DoorConnection(sock)
    try:
        connection.register(registration)
    except BaseException:
        connection.close()
        raise
    return connection


class _Opened:
    """A door answered."""


class Doors:
    """Every door of one aggregator, as one host.

    Any thread may read and write blobs; all else is for the shell's thread.
    """

    def __init__(self, addresses: Sequence[Address], plan: bytes, note: Note) -> None:
        self._addresses = tuple(addresses)
        self._plan = plan
        self._note = note
        self._token = token_bytes(TOKEN_BYTES)  # the same at every door: it names this aggregator's events
        self._arrivals: queue.SimpleQueue[tuple[Link, DoorMessage | _Opened | None] | Finish] = queue.SimpleQueue()
        self._links: list[Link] = []  # events go through the first
        self._expected: dict[bytes, int] = {}  # sizes; no host makes this side remember a name that was not asked for
        self._declined: set[bytes] = set()
        self._nearest: dict[bytes, Link] = {}  # where a blob arrived, or was written
        self._unheard: dict[int, bytes] = {}  # in the order in which they were told
        self._heard_at = 0.0  # when one was acknowledged last, or there was none to acknowledge
        self._events = 0
        self._over = threading.Event()

    def __enter__(self) -> Doors:
        for address in self._addresses:
            threading.Thread(target=self._keep, args=(address,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for link in self._links:
            link.close()

    @property
    def has_unheard_events(self) -> bool:
        """Some replica still has to acknowledge an event."""
        return bool(self._unheard)

    def post(self, finish: Finish) -> None:
        """Let a job that is done come out of :meth:`next`; from any thread."""
        self._arrivals.put(finish)

    def next(self, timeout_s: float) -> tuple[Link, DoorMessage | None] | Finish:
        """What came next and on which link, None in place of a message when that link is over; or a job that is done.

        Raises:
            queue.Empty: nothing came in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            arrived = self._arrivals.get(timeout=max(0.0, deadline - time.monotonic()))
            if not isinstance(arrived, tuple):
                return arrived
            link, arrival = arrived
            if isinstance(arrival, _Opened):
                self._add(link)
            elif arrival is None:
                self._drop(link)
                return link, None
            elif arrival.kind is DoorKind.RECORDED:
                if arrival.channel <= link.told and self._unheard.pop(arrival.channel, None) is not None:
                    self._heard_at = time.monotonic()
            elif arrival.kind is DoorKind.ARRIVED:
                if arrival.body in self._expected:
                    self._nearest.setdefault(arrival.body, link)
            elif arrival.kind is DoorKind.DECLINED:
                self._try(link, partial(self._note_declined, arrival.body))
            elif not link.is_broken:  # else what came before no longer counts: its sessions are over
                return link, arrival
            if time.monotonic() >= deadline:  # a host that keeps talking stops no clock
                raise queue.Empty

    def send(self, link: Link, kind: DoorKind, channel: int, body: bytes) -> None:
        """Send on one link's control; if it is broken, its sessions are about to end."""
        self._try(link, lambda: link.control.send(kind, channel, body))

    def tell(self, event: bytes) -> None:
        """Publish an event (JSON), through whichever door there is or will be."""
        if not self._unheard:
            self._heard_at = time.monotonic()
        self._events += 1
        self._unheard[self._events] = event
        if len(self._unheard) > _MAX_UNHEARD:
            del self._unheard[next(iter(self._unheard))]
        if (speaker := self._speaker()) is not None:
            self._say(speaker, self._events, event)

    # the store: coordinator.enclave.ports.HostStore over all doors

    def expect(self, blob: bytes, size_bytes: int) -> None:
        """Announce an upload at every door: on each it goes before any frame that tells a worker the name."""
        self._expected[blob] = size_bytes
        self._at_all(lambda link: link.store.expect(blob, size_bytes))

    def tend(self) -> None:
        """To be called now and then: announce what a replica had no room for; if one hears no event, tell the next."""
        if self._unheard and time.monotonic() - self._heard_at >= _SILENCE_S:
            self._links = self._links[1:] + self._links[:1]
            self._tell_again()
        declined, self._declined = self._declined, set()
        for blob in declined & self._expected.keys():
            self.expect(blob, self._expected[blob])

    def _note_declined(self, body: bytes) -> None:
        decline = Decline.decode(body)
        if decline.reason in _NO_ROOM_NOW and decline.blob in self._expected:
            self._declined.add(decline.blob)

    def read(self, blob: bytes, offset: int, size_bytes: int) -> Buffer:
        """At most ``size_bytes`` from ``offset``, from the replica that has it nearest; nothing where none has it.

        What is read is good until this thread's next read.
        """
        nearest = self._nearest.get(blob)
        for link in sorted(self._live(), key=lambda link: link is not nearest):
            try:
                found = link.store.read(blob, offset, size_bytes)
            except (OSError, ProtocolError) as error:
                self._break(link, error)
                continue
            if found:
                return found
        self._live()
        return b""

    def write(self, blob: bytes, size_bytes: int, pieces: Iterable[Buffer]) -> None:
        """Store a blob at one replica, which shares it with the others.

        Raises:
            StoreRefused: the host does not take it now. ConnectionError: a door broke.
        """
        link = self._live()[0]
        try:
            link.store.write(blob, size_bytes, pieces)
        except StoreRefused:  # no fault of the door: every worker's session would end with it
            raise
        except (OSError, ProtocolError) as error:
            self._break(link, error)
            raise ConnectionError("a door broke while a blob was written") from error
        self._nearest[blob] = link

    def discard(self, blob: bytes) -> None:
        """Let every replica forget a blob."""
        self._expected.pop(blob, None)
        self._nearest.pop(blob, None)
        self._at_all(lambda link: link.store.discard(blob))

    # links

    def _keep(self, address: Address) -> None:
        """A door's thread: dial, pass on what comes, and again."""
        silent = False
        while not self._over.is_set():
            try:
                link = Link(address, self._plan, self._token)
            except (OSError, ProtocolError) as error:
                if not silent:
                    self._note("door-unreachable", detail=str(error))
                silent = True  # once until it answers
                self._over.wait(_REDIAL_S)
                continue
            silent = False
            if self._over.is_set():
                link.close()
            self._pass_on(link)
            self._over.wait(_REDIAL_S)

    def _pass_on(self, link: Link) -> None:
        """Everything that comes through ``link``, from its beginning until it is over."""
        self._arrivals.put((link, _Opened()))
        try:
            while (message := link.control.receive()) is not None:
                self._arrivals.put((link, message))
        except (OSError, ProtocolError) as error:
            self._note("door-broken", detail=str(error))
        self._arrivals.put((link, None))

    def _add(self, link: Link) -> None:
        self._links.append(link)
        if link is self._speaker():
            self._tell_again()

    def _drop(self, link: Link) -> None:
        """Forget a link; if events went through it, the next door hears what it did not acknowledge."""
        link.close()
        spoke = link is self._speaker()
        if link in self._links:
            self._links.remove(link)
        for blob in [blob for blob, nearest in tuple(self._nearest.items()) if nearest is link]:
            del self._nearest[blob]
        if spoke:
            self._tell_again()

    def _speaker(self) -> Link | None:
        """Through which events go."""
        return self._links[0] if self._links else None

    def _tell_again(self) -> None:
        """Tell a new speaker what nobody acknowledged, but not what it was told itself: a full disk may hold that."""
        self._heard_at = time.monotonic()
        if (speaker := self._speaker()) is not None:
            for number, event in tuple(self._unheard.items()):
                if number > speaker.told:
                    self._say(speaker, number, event)

    def _say(self, link: Link, number: int, event: bytes) -> None:
        """Tell one event; should the link be broken, it is told again when that link is dropped."""
        link.told = number
        self._try(link, lambda: link.control.send(DoorKind.EVENT, number, event))

    def _at_all(self, act: Callable[[Link], None]) -> None:
        for link in self._live():
            self._try(link, partial(act, link))
        self._live()

    def _try(self, link: Link, act: Callable[[], None]) -> None:
        if not link.is_broken:
            try:
                act()
            except (OSError, ProtocolError) as error:
                self._break(link, error)

    def _break(self, link: Link, error: Exception) -> None:
        self._note("door-broken", detail=str(error))
        link.close()

    def _live(self) -> tuple[Link, ...]:
        """The links that are not broken, one at least.

        Raises:
            ConnectionError: there is none.
        """
        live = tuple(link for link in tuple(self._links) if not link.is_broken)
        if not live:
            raise ConnectionError("no door is connected")
        return live
