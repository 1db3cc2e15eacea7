"""Fair turns for streams that carry much: so many move at a time, the others wait. Trust zone: host.

Rules: a stream holds a turn while its bytes flow, and gives it back when it stands still or has had its share. So slow
workers hold up nobody, and a thousand workers take no more memory than ``places`` of them do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

from trusted.errors import Reason, RunError

T = TypeVar("T")

_STANDS_STILL_S = 0.5
_SHARE_BYTES = 8 << 20


class Turns:
    """At most ``places`` streams move at any time; the others are served in the order they came.

    ``waited`` is told how many seconds a stream waited for its turn, where it waited at all.
    """

    def __init__(self, places: int, stall_s: float, *, waited: Callable[[float], None] = lambda seconds: None) -> None:
        self._free = asyncio.Semaphore(places)
        self._waited = waited
        self.stall_s = stall_s

    def turn(self) -> Turn:
        """For one more stream."""
        return Turn(self)

    async def take(self) -> None:
        """Wait for a place."""
        if not self._free.locked():
            await self._free.acquire()
            return
        begun = monotonic()
        try:
            await self._free.acquire()
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

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._holds = False
        self._share = 0
        self._timer: asyncio.TimerHandle | None = None
        self._mover: asyncio.Task[Any] | None = None  # while something moves
        self._since = 0.0
        self._stalled = False

    async def __aenter__(self) -> Turn:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._give_back()

    async def take(self) -> None:
        """Wait for the turn, unless the stream has it."""
        if not self._holds:
            await self._turns.take()
            self._holds, self._share = True, 0

    async def move(self, transfer: Awaitable[T], size_bytes: int = 0) -> T:
        """What ``transfer`` gives, moved in the stream's turn.

        Raises:
            RunError: UNREACHABLE: it stood still for ``stall_s``.
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
        return value

    @property
    def _patience_s(self) -> float:
        """How long a transfer may stand still and keep its place."""
        return min(_STANDS_STILL_S, self._turns.stall_s)

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
            patience_s += self._turns.stall_s
        self._timer = loop.call_at(patience_s, self._look)

    def used(self, size_bytes: int) -> None:
        """So much was moved: whoever has had its share lets the next one in."""
        self._share += size_bytes
        if self._share >= _SHARE_BYTES and self._turns.wanted:
            self._give_back()

    def _give_back(self) -> None:
        if self._holds:
            self._holds = False
            self._turns.give_back()
