"""Fair turns for streams that carry much: so many move at a time, the others wait. Trust zone: host.

Rules: a stream holds a turn while its bytes flow, and gives it back when it stands still or has had its share. So slow
workers hold up nobody, and a thousand workers take no more memory than ``places`` of them do. Plans are served in turn,
so that a plan of three does not wait for the thousand of another. Who stands still and then moves a few bytes is waited
for half as long each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

from coordinator.host.fair_queue import FairPlaces
from coordinator.host.pace import Pace
from trusted.errors import Reason, RunError

T = TypeVar("T")

_STANDS_STILL_S = 0.5
_SHORTEST_PATIENCE_S = 0.004
_SHARE_BYTES = 8 << 20
_FLOOR_BYTES = 64 << 10


class Turns:
    """At most ``places`` streams move at any time; plan by plan the others are served in the order they came.

    ``waited`` is told how many seconds a stream waited for its turn, where it waited at all. ``floor_bytes`` have to
    move in every ``stall_s``.
    """

    def __init__(
        self,
        places: int,
        stall_s: float,
        *,
        waited: Callable[[float], None] = lambda seconds: None,
        floor_bytes: int = _FLOOR_BYTES,
    ) -> None:
        self._free = FairPlaces(places)
        self._waited = waited
        self.stall_s = stall_s
        self.floor_bytes = floor_bytes

    def turn(self, plan: bytes = b"") -> Turn:
        """For one more stream of ``plan``; those that do not say count as one plan."""
        return Turn(self, plan)

    async def take(self, plan: bytes = b"") -> None:
        """Wait for a place."""
        if not self._free.locked():
            await self._free.acquire(plan)
            return
        begun = monotonic()
        try:
            await self._free.acquire(plan)
        finally:
            self._waited(monotonic() - begun)

    def give_back(self) -> None:
        """Let the next one have it."""
        self._free.release()

    @property
    def wanted(self) -> bool:
        """Whether all places are taken."""
        return self._free.locked()


class Turn:
    """One stream's turn. ``async with`` gives it back, whatever happens.

    One timer looks after all transfers of the stream: one for each would cost more than the transfer.
    """

    def __init__(self, turns: Turns, plan: bytes) -> None:
        self.plan = plan
        self._turns = turns
        self._pace = Pace(turns.stall_s, turns.floor_bytes)
        self._longest_s = self._patience_s = min(_STANDS_STILL_S, turns.stall_s)
        self._stood_still = False
        self._holds = False
        self._share = 0
        self._timer: asyncio.TimerHandle | None = None
        self._mover: asyncio.Task[Any] | None = None  # while something moves
        self._since = 0.0
        self._stalled = False

    async def __aenter__(self) -> Turn:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._rest()
        self._give_back()

    @property
    def is_held(self) -> bool:
        """Whether the stream has it."""
        return self._holds

    async def take(self) -> None:
        """Wait for the turn, unless the stream has it."""
        if not self._holds:
            await self._turns.take(self.plan)
            self._holds, self._share = True, 0

    async def move(self, transfer: Awaitable[T], size_bytes: int = 0) -> T:
        """What ``transfer`` gives, moved in the stream's turn.

        Raises:
            RunError: UNREACHABLE: it stood still for ``stall_s``, or crawls.
        """
        await self.take()
        loop, mover = asyncio.get_running_loop(), asyncio.current_task()
        if mover is None:
            raise RuntimeError("a stream is moved by a task")
        cancelling = mover.cancelling()
        self._mover, self._since, self._stalled = mover, loop.time(), False
        if self._timer is None:
            self._timer = loop.call_at(self._since + self._patience_s, self._look)
        try:
            value = await transfer
        except asyncio.CancelledError:
            if self._stalled and mover.uncancel() <= cancelling:  # else somebody else cancels, too
                raise RunError(
                    Reason.UNREACHABLE, "blob: the transfer stood still for too long; continue where it stopped"
                ) from None
            raise
        finally:
            self._mover = None
        self.used(size_bytes)
        self._pace.spent(loop.time() - self._since)
        return value

    def _look(self) -> None:
        """Give the place of a transfer that stands still to another stream; later, end it."""
        self._timer = None
        if self._mover is None:
            return
        loop = asyncio.get_running_loop()
        patience_s, now = self._since + self._patience_s, loop.time()
        if now >= patience_s + self._turns.stall_s:
            self._stalled = True
            self._mover.cancel()
            return
        if now >= patience_s:
            self._give_back()
            self._stood_still = True
            patience_s += self._turns.stall_s
        self._timer = loop.call_at(patience_s, self._look)

    def used(self, size_bytes: int) -> None:
        """So much was moved: whoever has had its share lets the next one in."""
        self._share += size_bytes
        self._pace.moved(size_bytes)
        if self._stood_still:  # for a little or, over a slow line, for much?
            crawls, self._stood_still = size_bytes < self._turns.floor_bytes, False
            self._patience_s = max(self._patience_s / 2, _SHORTEST_PATIENCE_S) if crawls else self._longest_s
            self._rest()  # the next transfer sets a timer of its own
        if self._share >= _SHARE_BYTES and self._turns.wanted:
            self._give_back()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_back(self) -> None:
        if self._holds:
            self._holds = False
            self._turns.give_back()
