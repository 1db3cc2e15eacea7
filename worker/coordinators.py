"""The replicas of one coordinator host: one is used, and the next when it is away. Trust zone: outside the session.

All of them together are the host that nobody trusts. What one of them holds complete, every one gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import grpc

from trusted.blob import BlobHeader
from trusted.errors import ProtocolError, Reason
from worker.dialer import Dialer, FrameStream, Patience, Progress, Sealed, closed_here, silent, unheard

_ALONE = Patience()
_AMONG_OTHERS = Patience(attempts=3)
_TURNS = 4  # how often a transfer asks each of several replicas that say they are away
_AWAY = frozenset({Reason.UNREACHABLE, Reason.STORE_AWAY, Reason.HOST_SHORT})


class Coordinators:
    """A worker's way to one plan. Transfers and sessions start at the replica that is used now."""

    def __init__(
        self,
        targets: Sequence[str],
        ca_pem: bytes | None,
        plan_digest: bytes,
        *,
        proxy: str | None = None,
        note: Callable[..., None] = unheard,
    ) -> None:
        patience = _ALONE if len(targets) == 1 else _AMONG_OTHERS
        self._stack = ExitStack()
        self._dialers = [
            self._stack.enter_context(Dialer(target, ca_pem, plan_digest, proxy=proxy, patience=patience, note=note))
            for target in targets
        ]
        self._used = 0
        self._closed = False

    def __enter__(self) -> Coordinators:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._stack.close()

    def turn(self) -> None:
        """Use the next replica from now on; transfers that are under way go on where they are."""
        self._used = (self._used + 1) % len(self._dialers)

    @property
    def channel(self) -> grpc.Channel:
        """The connection to the replica that is used now, for what else it serves."""
        return self._dialers[self._used].channel

    def attach(self) -> FrameStream:
        """A new stream to the plan's aggregator. That nobody answers shows as its end, with a ``refusal``."""
        return self._dialers[self._used].attach()

    def put_blob(self, blob: bytes, sealed: bytes | memoryview | Sealed, progress: Progress = silent) -> None:
        """Store all of ``sealed`` under the announced name ``blob``, at whichever replica takes them.

        Raises:
            ProtocolError: a replica refuses, or all stay out of reach.
        """
        for dialer, last in self._in_turn():
            with self._passing(last=last):
                dialer.put_blob(blob, sealed, progress)
                break

    def get_blob(self, blob: bytes, offset: int = 0, *, header: BlobHeader | None = None) -> Iterator[memoryview]:
        """The stored bytes from ``offset`` to the end, each given once, from whichever replica gives them.

        Cut where the pieces of ``header`` begin; a piece that one replica began comes whole, or its rest from another.

        Raises:
            ProtocolError: a replica has no such blob, or all stay out of reach.
        """
        for dialer, last in self._in_turn():
            with self._passing(last=last):
                for piece in dialer.get_blob(blob, offset, header=header):
                    offset += len(piece)
                    yield piece
                return

    def _in_turn(self) -> Iterator[tuple[Dialer, bool]]:
        """Whom to ask, beginning with the replica that is used now, and whether it is the last time."""
        count = len(self._dialers)
        asked = count * (_TURNS if count > 1 else 1)
        start = self._used
        for number in range(asked):
            yield self._dialers[(start + number) % count], number == asked - 1

    @contextmanager
    def _passing(self, *, last: bool) -> Iterator[None]:
        """Swallow that a replica is away, unless it was the ``last`` to be asked."""
        try:
            yield
        except ProtocolError as refusal:
            if last or refusal.reason not in _AWAY:
                raise
        except ValueError:  # gRPC's word for a closed channel
            if not self._closed:
                raise
            raise closed_here() from None
