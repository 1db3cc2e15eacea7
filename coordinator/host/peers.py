"""What each peer address holds and how often it comes. Trust zone: host; no I/O, the clock is an argument.

Rules:
 1. A peer is an IPv4 address or an IPv6 network of 64 bits, which is the least that one customer has. The port does not
    tell peers apart.
 2. What it holds is counted while it holds it. How often it comes is a bucket of tokens: so many at once, and so many
    more each second.
 3. Nothing here grows with the number of addresses that were ever seen: who was away for longest is forgotten
    first, and a bucket that was forgotten is full.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from time import monotonic
from urllib.parse import unquote

from coordinator.host.limits import Limits
from trusted.errors import Reason, RunError

_KNOWN_PEERS = 16_384
_V6_BITS = 64
Monotonic = Callable[[], float]


@lru_cache(maxsize=_KNOWN_PEERS)
def peer_key(peer: str) -> str:
    """What tells peers apart in gRPC's ``ipv4:1.2.3.4:5678``, ``ipv6:%5B2001:db8::1%5D:5678`` or ``unix:``."""
    family, _, rest = peer.partition(":")
    host = unquote(rest.rpartition(":")[0]).strip("[]").partition("%")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return family
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((address, _V6_BITS), strict=False))
    return str(address)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    counted_at: float


class Buckets:
    """A bucket of ``at_once`` tokens for each peer, filled with ``per_s`` a second."""

    def __init__(self, at_once: float, per_s: float, now: Monotonic = monotonic) -> None:
        self._at_once = at_once
        self._per_s = per_s
        self._now = now
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str) -> bool:
        """Take one token of ``key``, if there is one."""
        now = self._now()
        bucket = self._buckets.pop(key, None) or _Bucket(self._at_once, now)
        bucket.tokens = min(self._at_once, bucket.tokens + (now - bucket.counted_at) * self._per_s)
        bucket.counted_at = now
        self._buckets[key] = bucket
        if len(self._buckets) > _KNOWN_PEERS:
            self._buckets.popitem(last=False)  # the one that was away for longest
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


class PeerGate:
    """Lets in what a peer may hold and how often it may come."""

    def __init__(self, limits: Limits, now: Monotonic = monotonic) -> None:
        self._limits = limits
        self._streams: Counter[str] = Counter()
        self._handshakes: Counter[str] = Counter()
        self._watches: Counter[str] = Counter()
        self._calls = Buckets(limits.calls_at_once, limits.calls_per_s, now)
        self._attaches = Buckets(limits.attaches_at_once, limits.attaches_per_s, now)

    @contextmanager
    def enter(self, peer: str) -> Iterator[None]:
        """Hold one stream of ``peer``, as gRPC names it.

        Raises:
            RunError: QUOTA: it holds as many as it may, or calls too often.
        """
        key = peer_key(peer)
        if not self._calls.take(key):
            raise _too_often("calls_per_s")
        with _held(self._streams, key, self._limits.streams_per_peer, "streams_per_peer"):
            yield

    @contextmanager
    def attach(self, peer: str) -> Iterator[Callable[[], None]]:
        """Hold one handshake of ``peer``, until the given function is called: it is admitted.

        Raises:
            RunError: QUOTA: as many as it may are under way, or it attaches too often.
        """
        key = peer_key(peer)
        if not self._attaches.take(key):
            raise _too_often("attaches_per_s")
        holding = _held(self._handshakes, key, self._limits.handshakes_per_peer, "handshakes_per_peer")
        holding.__enter__()
        held = True

        def admitted() -> None:
            nonlocal held
            if held:
                held = False
                holding.__exit__(None, None, None)

        try:
            yield admitted
        finally:
            admitted()

    @contextmanager
    def watch(self, peer: str) -> Iterator[None]:
        """Hold one watch of ``peer``.

        Raises:
            RunError: QUOTA: it holds as many as it may.
        """
        with _held(self._watches, peer_key(peer), self._limits.watches_per_peer, "watches_per_peer"):
            yield


@contextmanager
def _held(counts: Counter[str], key: str, limit: int, name: str) -> Iterator[None]:
    if counts[key] >= limit:
        raise RunError(Reason.QUOTA, f"peer: at most limits.{name} ({limit}) at a time for one address")
    counts[key] += 1
    try:
        yield
    finally:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]


def _too_often(name: str) -> RunError:
    return RunError(Reason.QUOTA, f"peer: more often than limits.{name} allows one address; wait a moment")
