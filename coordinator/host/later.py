"""What an aggregator told that a full disk keeps from being stored: kept in order, and tried again. Trust zone: host.

Meanwhile its sessions go on: a disk that is full for an hour costs nobody the admission. What is kept has a bound; an
aggregator that says more than that is cut off, dials again, and tells again what was not answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coordinator.host.shortages import HostShort, Shortage
from trusted.errors import ProtocolError

_AGAIN_S = 1.0
_MAX_KEPT = 4096
_MAX_KEPT_BYTES = 8 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """One message, and what is to be done about it. ``blob``: the name that it is about, if it is about one."""

    act: Callable[[], Awaitable[None]]
    size_bytes: int
    blob: bytes = b""


class Later:
    """The messages of one control connection that wait for room. ``close`` is called when they cannot wait here."""

    def __init__(self, close: Callable[[], None], short: Callable[[Shortage], None]) -> None:
        self._close = close
        self._short = short
        self._kept: deque[Told] = deque()
        self._kept_bytes = 0
        self._trying: asyncio.Task[None] | None = None

    async def do(self, told: Told) -> None:
        """Act on ``told`` now, or behind what waits already.

        Raises:
            HostShort: more waits than may.
            ProtocolError: the act refuses for a reason of its own.
        """
        if not self._kept:
            try:
                await told.act()
                return
            except HostShort as lacking:
                self._short(lacking.shortage)
                _log.warning("message-waits", extra={"reason": lacking.reason.code, "outcome": lacking.shortage.value})
        if len(self._kept) >= _MAX_KEPT or self._kept_bytes + told.size_bytes > _MAX_KEPT_BYTES:
            raise HostShort(Shortage.DISK)
        self._kept.append(told)
        self._kept_bytes += told.size_bytes
        if self._trying is None:
            self._trying = asyncio.create_task(self._try_again())

    def drop(self, blob: bytes) -> None:
        """Forget what waits about ``blob``, which is discarded."""
        self._kept = deque(told for told in self._kept if told.blob != blob)
        self._kept_bytes = sum(told.size_bytes for told in self._kept)

    async def end(self) -> None:
        """Forget what waits; the aggregator tells it again."""
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.gather(self._trying, return_exceptions=True)

    async def _try_again(self) -> None:
        while self._kept:
            told = self._kept[0]
            try:
                await told.act()
            except HostShort:
                await asyncio.sleep(_AGAIN_S)
                continue
            except ProtocolError as failure:
                _log.warning("message-not-stored", extra={"reason": failure.reason.code})
                self._close()
                return
            if self._kept and self._kept[0] is told:
                self._kept.popleft()
                self._kept_bytes -= told.size_bytes
        self._trying = None
