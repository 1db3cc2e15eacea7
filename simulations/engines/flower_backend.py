"""The one place that knows Flower's Ray backend (flwr 1.41: ``fleet.vce.backend.raybackend``). Trust zone: developer.

Rules: 1. Each actor is driven by a thread of its own, one message at a time. 2. A message names sites and round; task
and model are put into Ray's store, once and once a round, and actors of a machine share them there. 3. Where a task
keeps state, a site stays with the actor that first trained it.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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

from simulations.engine import Answers
from simulations.engines.in_process import torch_threads
from simulations.engines.sharing import share_size
from simulations.task import Job, Task, Trained
from trusted.encoding import Vector
from trusted.errors import Reason

_RUN, _NODE, _TASK = 1, 1, 1  # Flower's identities, which mean nothing here
_JOBS, _UPDATES = "jobs", "updates"
Share = Sequence[tuple[int, Job]]
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


class Actors:
    """A crew on Ray."""

    def __init__(self, task: Task, most_jobs: int, *, address: str | None, cpus: float, gpus: float) -> None:
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
        self._homes: dict[int, int] = {}
        self._updates = np.empty((most_jobs, task.layout.elements), np.float32)
        self._drivers = ThreadPoolExecutor(self._backend.num_workers, thread_name_prefix="ray-actor")

    def train(self, model: Vector, jobs: Sequence[Job]) -> Answers:
        """As ``Crew``."""
        self._backend.app_fn = partial(_app, self._held, ray.put(model), self._threads)
        trained: dict[int, Trained] = {}
        lists = self._shares(list(enumerate(jobs)))
        list(self._drivers.map(lambda place: self._drive(place, lists[place], trained), range(len(lists))))
        return Answers(self._updates[: len(jobs)], [trained[row] for row in range(len(jobs))])

    def end(self) -> None:
        """End the actors, and Ray where it was started or connected to here."""
        if hasattr(self, "_drivers"):
            self._drivers.shutdown()
        if self._found:
            if self._backend.pool is not None:
                self._backend.pool.terminate_all_actors()
        else:
            self._backend.terminate()

    def _shares(self, jobs: Share) -> Sequence[deque[Share]]:
        """For each actor what only it may do; or one list for all, of as many jobs as belong together."""
        count = self._backend.num_workers
        if not self._task.keeps_state:
            size = share_size(len(jobs), count, self._task.together)
            return [deque(jobs[start : start + size] for start in range(0, len(jobs), size))] * count
        own: list[list[tuple[int, Job]]] = [[] for _ in range(count)]
        for row, job in jobs:
            place = self._homes.setdefault(job.site, len(self._homes) % count)
            own[place].append((row, job))
        return [deque([share] if share else []) for share in own]

    def _drive(self, place: int, shares: deque[Share], trained: dict[int, Trained]) -> None:
        while True:
            try:
                share = shares.popleft()
            except IndexError:
                return
            jobs = json.dumps([(job.site, job.round) for _, job in share])
            message = Message(RecordDict({_JOBS: ConfigRecord({_JOBS: jobs})}), _NODE, "train")
            context = Context(_RUN, _NODE, {PARTITION_ID_KEY: place}, RecordDict(), {})
            reply, _ = self._backend.process_message(message, context)
            rows = [row for row, _ in share]
            self._updates[rows] = reply.content.array_records[_UPDATES][_UPDATES].numpy()
            said = json.loads(str(reply.content.config_records[_JOBS][_JOBS]))
            trained.update(zip(rows, map(_heard, said), strict=True))


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
