"""Fair turns for streams that carry much: so many move at a time, the others wait. Trust zone: host.

Rules: a stream holds a turn while its bytes flow, and gives it back when it stands still or has had its share. So slow
workers hold up nobody, and a thousand workers take no more memory than ``places`` of them do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from trusted.errors import Reason, RunError

T = TypeVar("T")

_STANDS_STILL_S = 0.5
_SHARE_BYTES = 8 << 20


class Turns:
    """At most ``places`` streams move at any time; the others are served in the order they came."""

    def __init__(self, places: int, stall_s: float) -> None:
        self._free = asyncio.Semaphore(places)
        self._stall_s = stall_s

    def turn(self) -> Turn:
        """For one more stream."""
        return Turn(self._free, self._stall_s)


class Turn:
    """One stream's turn. ``async with`` gives it back, whatever happens."""

    def __init__(self, free: asyncio.Semaphore, stall_s: float) -> None:
        self._free = free
        self._stall_s = stall_s
        self._holds = False
        self._share = 0

    async def __aenter__(self) -> Turn:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    async def take(self) -> None:
        """Wait for the turn, unless the stream has it."""
        if not self._holds:
            await self._free.acquire()
            self._holds, self._share = True, 0

    async def move(self, transfer: Awaitable[T], size_bytes: int = 0) -> T:
        """What ``transfer`` gives, moved in the stream's turn.

        Raises:
            RunError: UNREACHABLE: it stood still for ``stall_s``.
        """
        await self.take()
        moving = asyncio.ensure_future(transfer)
        try:
            done, _ = await asyncio.wait({moving}, timeout=min(_STANDS_STILL_S, self._stall_s))
            if not done:
                self._give_back()
                done, _ = await asyncio.wait({moving}, timeout=self._stall_s)
            if not done:
                raise RunError(
                    Reason.UNREACHABLE, "blob: the transfer stood still for too long; continue where it stopped"
                )
        finally:
            if not moving.done():
                moving.cancel()
        self.used(size_bytes)
        return moving.result()

    def used(self, size_bytes: int) -> None:
        """So much was moved: whoever has had its share lets the next one in."""
        self._share += size_bytes
        if self._share >= _SHARE_BYTES and self._free.locked():
            self._give_back()

    def _give_back(self) -> None:
        if self._holds:
            self._holds = False
            self._free.release()
