"""An aggregator whose owner is also its developer. Trust zone: the developer's machine.

It is production's, state machines and all. What is different is what nobody has of one in a TEE: the seed of its
cohorts is chosen, so that they are drawn as without admission, and one may look in.
"""

from __future__ import annotations

from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.round_loop import RoundLoop
from coordinator.enclave.rounds import Round
from simulations.hosts.consortium import Consortium
from simulations.hosts.store import MemoryStore
from simulations.hosts.working import WorkingNet
from trusted.encoding import Vector


class OpenEnclave(Aggregator):
    """Serves ``world``; ``cohorts`` are the 32 bytes from which its cohorts follow."""

    def __init__(self, world: Consortium, store: MemoryStore, jobs: Jobs, cohorts: bytes) -> None:
        super().__init__(world.federation, world.identity("aggregator"), store, jobs)
        self._run._beginning.draw = lambda size: cohorts[:size]

    @property
    def current(self) -> Round | None:
        """The round that is open."""
        rounds = self._run._rounds
        return rounds.current if isinstance(rounds, RoundLoop) else None

    @property
    def vector(self) -> Vector:
        """The exchanged part of the model, float32[elements]."""
        return self._run._course.require_model().vector

    @property
    def epsilon(self) -> float | None:
        """What is spent of the privacy budget; None without a mechanism."""
        privacy = self._run._course.privacy
        return None if privacy is None else privacy.epsilon


class OpenNet(WorkingNet):
    """An honest host before such an aggregator."""

    aggregator: OpenEnclave

    def __init__(self, world: Consortium, jobs: Jobs, cohorts: bytes) -> None:
        self._jobs, self._cohorts = jobs, cohorts
        super().__init__(world)

    def make_aggregator(self) -> OpenEnclave:
        """The one that serves this run."""
        return OpenEnclave(self.world, self.store, self._jobs, self._cohorts)
