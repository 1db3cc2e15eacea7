"""Who is next where several plans wait for a few places: the plans take turns, and within one the first come.

Rules:
 1. A place that is free goes to the next waiting plan after the one that had the last, whatever the number that waits.
 2. Within a plan the order is that of arrival.
 3. Nobody passes by while somebody waits: a place that is given back is handed over, not left to whoever asks first.

Trust zone: host.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Generic, TypeVar

W = TypeVar("W")


class FairQueue(Generic[W]):
    """Waiters of several plans, in the order in which they are to be served."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[bytes, deque[W]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, plan: bytes, waiter: W) -> None:
        """Let ``waiter`` wait behind the others of ``plan``; a plan that waits anew comes behind the other plans."""
        self._waiting.setdefault(plan, deque()).append(waiter)

    def next(self) -> W:
        """Take out who is to be served now.

        Raises:
            LookupError: nobody waits.
        """
        plan = next(iter(self._waiting), None)
        if plan is None:
            raise LookupError("nobody waits")
        line = self._waiting.pop(plan)
        waiter = line.popleft()
        if line:
            self._waiting[plan] = line  # behind the other plans
        return waiter

    def remove(self, plan: bytes, waiter: W) -> None:
        """Take out one that no longer waits; the places of all others stay."""
        line = self._waiting.get(plan, deque())
        if waiter in line:  # else it was taken out to be served
            line.remove(waiter)
        if not line:
            self._waiting.pop(plan, None)


class FairPlaces:
    """So many places at a time, handed on by a :class:`FairQueue`. To be used on one event loop."""

    def __init__(self, places: int) -> None:
        self._left = places
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    def locked(self) -> bool:
        """Whether all places are taken; while somebody waits they are."""
        return self._left == 0

    async def acquire(self, plan: bytes) -> None:
        """Wait for a place, in the turn of ``plan``."""
        if self._left:
            self._left -= 1
            return
        handed = asyncio.get_running_loop().create_future()
        self._waiting.add(plan, handed)
        try:
            await handed
        except asyncio.CancelledError:
            if handed.done() and not handed.cancelled():
                self.release()  # it came just then
            else:
                self._waiting.remove(plan, handed)
            raise

    def release(self) -> None:
        """Hand a place to whoever is next."""
        while self._waiting:
            handed = self._waiting.next()
            if not handed.done():  # else it gave up and is about to say so
                handed.set_result(None)
                return
        self._left += 1
