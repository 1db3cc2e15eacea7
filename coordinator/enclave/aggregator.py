"""The whole aggregator behind one face: host's events in, effects out. Trust zone: aggregator TEE. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from coordinator.enclave.admissions import Admissions
from coordinator.enclave.effects import Effect, Emit
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.ports import HostStore
from coordinator.enclave.run import Run, RunState
from coordinator.enclave.server_app import ServerApp
from trusted.channel.federation import Federation
from trusted.channel.session import Identity
from trusted.errors import Reason


class Aggregator:
    """One plan's aggregator. Every method may be called by a lying host, in any order, at any time."""

    def __init__(
        self,
        federation: Federation,
        identity: Identity,
        store: HostStore,
        jobs: Jobs | None = None,
        server_app: ServerApp | None = None,
    ) -> None:
        self._admissions = Admissions(federation, identity)
        self._run = Run(self._admissions, store, jobs, server_app)

    @property
    def state(self) -> RunState:
        """Where the run stands."""
        return self._run.state

    @property
    def is_awaited(self) -> bool:
        """The run is over, and somebody who took part has not heard of it yet."""
        return self._run.is_awaited

    def attach(self, connection: int, now: datetime) -> tuple[Effect, ...]:
        """Somebody connected."""
        self._admissions.attach(connection, now)
        return self._drain()

    def receive(self, connection: int, frame: bytes, now: datetime) -> tuple[Effect, ...]:
        """A frame came on a connection."""
        arrival = self._admissions.receive(connection, frame, now)
        if arrival is not None:
            self._run.arrive(arrival, self._own(now))
        return self._drain()

    def detach(self, connection: int, now: datetime) -> tuple[Effect, ...]:
        """A connection ended."""
        self._admissions.detach(connection)
        self._run.proceed(self._own(now))
        return self._drain()

    def start(self, now: datetime) -> tuple[Effect, ...]:
        """The host passed on an order to start."""
        self._run.start(self._own(now))
        return self._drain()

    def pause(self, now: datetime) -> tuple[Effect, ...]:
        """The host passed on an order to open no further round."""
        self._run.pause(self._own(now))
        return self._drain()

    def unpause(self, now: datetime) -> tuple[Effect, ...]:
        """The host passed on an order to open rounds again."""
        self._run.unpause(self._own(now))
        return self._drain()

    def stop(self, now: datetime) -> tuple[Effect, ...]:
        """The host passed on an order to stop."""
        self._run.stop(self._own(now))
        return self._drain()

    def drain(self, now: datetime) -> tuple[Effect, ...]:
        """This process is asked to end: open nothing more."""
        self._run.drain(self._own(now))
        return self._drain()

    @property
    def is_writing(self) -> bool:
        """Whether something is on its way to the host that a successor would miss."""
        return self._run.is_writing

    def dismiss(self, now: datetime) -> tuple[Effect, ...]:
        """End every session; workers come back, to a successor."""
        self._admissions.dismiss_all(Reason.NO_AGGREGATOR)
        return self._drain()

    def clock_jumped(self, by: timedelta, now: datetime) -> tuple[Effect, ...]:
        """The clock that gives ``now`` was put forward by ``by`` (back, below zero), and no time passed.

        No lease is believed across that: everybody proves itself anew, and is judged by the clock as it is now.
        """
        self._admissions.effects.append(Emit("clock-jumped", {"seconds": by.total_seconds()}))
        self._run.jumped += by
        self._admissions.dismiss_all(Reason.CLOCK_JUMPED)
        self._run.proceed(self._own(now))
        return self._drain()

    def finish(self, done: Callable[[datetime], None], now: datetime) -> tuple[Effect, ...]:
        """A job came back: let it say what it did."""
        done(self._own(now))
        return self._drain()

    def tick(self, now: datetime) -> tuple[Effect, ...]:
        """Time passed."""
        self._admissions.tick(now)
        self._run.proceed(self._own(now))
        return self._drain()

    def _own(self, now: datetime) -> datetime:
        """The run's own time, which never jumps."""
        return now - self._run.jumped

    def _drain(self) -> tuple[Effect, ...]:
        return self._admissions.take_effects()
