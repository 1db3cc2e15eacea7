"""Sites on a Ray cluster, through Flower's own simulation backend: for many machines, and for GPUs.

Trust zone: the developer's machine, and the cluster's. Ray carries tasks, models and updates as pickles and in the
clear: a cluster for simulations, with data that may lie on it. Needs the extra ``simulate-ray``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from simulations.engine import Crew
from simulations.engines.sharing import WINDOW_BYTES, Sharing
from simulations.task import Task

# Before Ray and Flower are imported: they would report their use, and Flower would install what an app asks for.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


@dataclass(frozen=True, slots=True)
class Ray:
    """Actors of ``cpus`` and ``gpus`` each, as many as the cluster has room for.

    Attributes:
        address: of a running cluster, as ``ray.init`` takes it; None: the one that this process is connected to, or a
            new one on this machine alone, which ends with the simulation.
        window_bytes: of updates that may wait here until those of slower sites before them are there, where not all of
            a round are held.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    window_bytes: int = WINDOW_BYTES

    @property
    def name(self) -> str:
        """As ``Simulation(engine=…)`` spells it."""
        return "ray"

    @contextmanager
    def open(self, task: Task, *, most_jobs: int, holds_all: bool) -> Iterator[Crew]:
        """A crew of actors, to each of which ``task`` is brought once.

        Raises:
            ValueError: Ray or Flower is not installed, or the cluster has no room for a single actor.
        """
        for module in ("flwr", "ray"):
            if importlib.util.find_spec(module) is None:
                raise ValueError(
                    f"engine ray: {module} is not installed; pip install 'cloister[simulate-ray]' brings it"
                )
        os.environ.update(_QUIET)
        from simulations.engines.flower_backend import Actors

        def rows(sharing: Sharing) -> int:
            return sharing.rows(most_jobs, holds_all=holds_all, window_bytes=self.window_bytes)

        actors = Actors(task, address=self.address, cpus=self.cpus, gpus=self.gpus, rows=rows)
        try:
            yield actors
        finally:
            actors.end()
