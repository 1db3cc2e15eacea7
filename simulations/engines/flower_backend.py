"""The one place that knows Flower's Ray backend (flwr 1.41: ``fleet.vce.backend.raybackend``). Trust zone: developer.

Rules: 1. Each actor is driven by a thread of its own, one message at a time. 2. A message names sites and round; task
and model are put into Ray's store, once and once a round, and actors of a machine share them there. 3. Where a task
keeps state, a site stays with the actor that first trained it. 4. Updates wait here until those of the jobs before them
were taken; an actor whose next has no room yet waits, too.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import numpy as np
import ray
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import PARTITION_ID_KEY
from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
from flwr.simulation.ray_transport.ray_actor import BasicActorPool, ClientAppActor
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from simulations.engine import Done
from simulations.engines.in_process import torch_threads
from simulations.engines.sharing import Share, Sharing
from simulations.task import Job, Task, Trained
from trusted.encoding import Vector
from trusted.errors import Reason

_RUN, _NODE, _TASK = 1, 1, 1  # Flower's identities, which mean nothing here
_JOBS, _UPDATES = "jobs", "updates"
_TASKS: dict[Any, Task] = {}


class _Pool(BasicActorPool):  # type: ignore[misc]
    """Flower's pool, but that the actor is chosen by the message's partition: it is the number of an actor here."""

    def submit(self, actor_fn: Any, job: Any) -> Any:
        app, message, place, context = job
        actor = self.pool[int(place)]
        future = actor_fn(actor, app, message, place, context)
        self._future_to_actor[future] = actor
        return future

    def add_actor_back_to_pool(self, future: Any) -> None:
        self._future_to_actor.pop(future)


class _Backend(RayBackend):  # type: ignore[misc]
    def build(self, app_fn: Any) -> None:
        self.pool = _Pool(ClientAppActor, self.client_resources, self.actor_kwargs)
        self.pool.add_actors_to_pool(self.pool.actors_capacity)
        self.app_fn = app_fn


Rows = Callable[[Sharing], int]
"""For how many updates there is to be room, once it is known how many actors there are."""


class Actors:
    """A crew on Ray."""

    def __init__(self, task: Task, *, address: str | None, cpus: float, gpus: float, rows: Rows) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, _NODE, _TASK
        self._task, self._found = task, ray.is_initialized()
        here = {"address": address} if address else {"num_cpus": len(os.sched_getaffinity(0))}
        started = {"logging_level": "ERROR", "log_to_driver": False, **here}
        resources = {"num_cpus": cpus, "num_gpus": gpus}
        self._backend = _Backend({"init_args": started, "client_resources": resources})
        try:
            self._backend.build(ClientApp)
        except ValueError as error:
            self.end()
            raise ValueError(f"engine ray: no machine of the cluster has {cpus:g} CPUs and {gpus:g} GPUs") from error
        self._held = ray.put(task)
        self._threads = max(1, int(cpus))
        self._sharing = Sharing(task, self._backend.num_workers)
        self._updates = np.empty((rows(self._sharing), task.layout.elements), np.float32)
        self._drivers = ThreadPoolExecutor(self._backend.num_workers, thread_name_prefix="ray-actor")

    def train(self, model: Vector, jobs: Sequence[Job]) -> Iterator[Done]:
        """As ``Crew``."""
        self._backend.app_fn = partial(_app, self._held, ray.put(model), self._threads)
        room = _Room(self._updates[: self._sharing.in_turn(len(self._updates), len(jobs))])
        shares = self._sharing.shares(jobs)
        driving = [self._drivers.submit(self._drive, number, own, room) for number, own in enumerate(shares)]
        try:
            for place in range(len(jobs)):
                yield room.take(place)
        finally:
            room.close()
            wait(driving)

    def end(self) -> None:
        """End the actors, and Ray where it was started or connected to here."""
        if hasattr(self, "_drivers"):
            self._drivers.shutdown()
        if self._found:
            if self._backend.pool is not None:
                self._backend.pool.terminate_all_actors()
        else:
            self._backend.terminate()

    def _drive(self, number: int, shares: deque[Share], room: _Room) -> None:
        while True:
            try:
                share = shares.popleft()
            except IndexError:
                return
            places = [place for place, _ in share]
            if not room.wait_for(places[-1]):
                return
            try:
                updates, trained = self._asked(number, [job for _, job in share])
            except BaseException as error:
                room.fail(error)
                raise
            room.put(places, updates, trained)

    def _asked(self, number: int, share: Sequence[Job]) -> tuple[Any, list[Trained]]:
        """Updates, float32[jobs, elements], and what was said of them."""
        jobs = json.dumps([(job.site, job.round) for job in share])
        message = Message(RecordDict({_JOBS: ConfigRecord({_JOBS: jobs})}), _NODE, "train")
        context = Context(_RUN, _NODE, {PARTITION_ID_KEY: number}, RecordDict(), {})
        reply, _ = self._backend.process_message(message, context)
        said = json.loads(str(reply.content.config_records[_JOBS][_JOBS]))
        return reply.content.array_records[_UPDATES][_UPDATES].numpy(), list(map(_heard, said))


class _Room:
    """Where the drivers' updates, float32[rows, elements], wait to be taken in the order of their jobs."""

    def __init__(self, updates: NDArray[np.float32]) -> None:
        self._updates = updates
        self._trained: dict[int, Trained] = {}
        self._changed = threading.Condition()
        self._taken = 0  # the place that is waited for
        self._error: BaseException | None = None
        self._closed = False

    def take(self, place: int) -> Done:
        """The next; what was taken before makes room. Raises what a driver failed with."""
        with self._changed:
            self._taken = place
            self._changed.notify_all()
            self._changed.wait_for(lambda: place in self._trained or self._error is not None)
            if place not in self._trained and self._error is not None:
                raise self._error
            return Done(self._trained.pop(place), self._updates[place % len(self._updates)])

    def wait_for(self, place: int) -> bool:
        """Whether there is room for that of ``place`` now, after a while; False: nobody takes anything any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or place < self._taken + len(self._updates))
            return not self._closed

    def put(self, places: Sequence[int], updates: NDArray[np.float32], trained: Sequence[Trained]) -> None:
        """What a driver brought."""
        self._updates[[place % len(self._updates) for place in places]] = updates
        with self._changed:
            self._trained.update(zip(places, trained, strict=True))
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """A driver brings nothing more."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def close(self) -> None:
        """Let no driver wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _app(held: Any, model: Any, threads: int) -> ClientApp:
    """In an actor: what Flower calls for every message."""
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Message, context: Context) -> Message:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, _NODE, _TASK
        task = _task(held)
        jobs = [Job(site, number) for site, number in json.loads(message.content.config_records[_JOBS][_JOBS])]
        updates = np.empty((len(jobs), task.layout.elements), np.float32)
        with torch_threads(threads):
            said = task.train(np.array(ray.get(model)), jobs, updates)
        records = {
            _UPDATES: ArrayRecord({_UPDATES: Array(updates)}),
            _JOBS: ConfigRecord({_JOBS: json.dumps([_said(trained) for trained in said])}),
        }
        return Message(RecordDict(records), reply_to=message)

    return app


def _task(held: Any) -> Task:
    """The copy of this actor, made at its first message."""
    if held not in _TASKS:
        _TASKS.clear()
        _TASKS[held] = ray.get(held)
    return _TASKS[held]


def _said(trained: Trained) -> list[Any]:
    reason = None if trained.failure is None else trained.failure.value
    return [trained.num_examples, dict(trained.metrics), trained.seconds, reason]


def _heard(said: list[Any]) -> Trained:
    examples, metrics, seconds, reason = said
    return Trained(examples, metrics, seconds, None if reason is None else Reason(reason))
