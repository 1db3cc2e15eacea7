"""What sites do with a model, as the engines ask it. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from simulations.site_data import SiteData
from trusted.documents.layout import Layout
from trusted.documents.terms import Aggregation, Privacy
from trusted.encoding import Vector
from trusted.errors import Reason


@dataclass(frozen=True, slots=True)
class Job:
    """One site's work in one round: ``site`` is its place in the partition, ``round`` counts from 1."""

    site: int
    round: int


@dataclass(frozen=True, slots=True)
class Trained:
    """What a site answered, besides its update: as ``worker.trainer.TrainResult``, or why it failed, in ``words`` too.

    Production has no such words: what an app says stays at its site. ``private_steps`` were made under DP-SGD.
    """

    num_examples: int
    metrics: Mapping[str, float]
    seconds: float
    failure: Reason | None = None
    words: str = ""
    private_steps: int = 0


class Task(Protocol):
    """What all sites of a simulation train. It knows the data of each; randomness comes from its seed and the job."""

    @property
    def layout(self) -> Layout:
        """The model's."""

    @property
    def keeps_state(self) -> bool:
        """Whether a site remembers something between rounds: then all its jobs are done by one copy of the task."""

    @property
    def together(self) -> int:
        """How many jobs are best done in one call of :meth:`train`; 1, where that makes no difference."""

    def initial(self) -> Vector:
        """The model before the first round, float32[elements]."""

    def train(self, model: Vector, jobs: Sequence[Job], out: NDArray[np.float32]) -> list[Trained]:
        """Write each job's update (trained minus given model) to its row of ``out``, float32[jobs, elements].

        One after the other or together, whichever is faster for this task; what a job gives does not depend on which
        others it is done with, but for the last bits where a task says so.
        """

    def evaluate(self, model: Vector) -> Mapping[str, float]:
        """Metrics of ``model`` on rows that no site has; empty where there are none."""


class Recipe(Protocol):
    """What a simulation is given: how sites train, before it is known which rows each has."""

    def prepare(self, data: SiteData) -> Task:
        """The task of these sites, in every process that shall train a copy of its own.

        Raises:
            ValueError: the rows have no such column, or there is nothing to train.
        """

    def to_json(self) -> Mapping[str, object]:
        """For a result's settings: what kind of task it is, and its own settings."""


@runtime_checkable
class UnderTerms(Protocol):
    """A recipe that heeds what a plan tells sites: DP-SGD, FedProx's term in the messages to train."""

    def under(self, privacy: Privacy, aggregation: Aggregation) -> Recipe:
        """The same under these terms.

        Raises:
            ValueError: it cannot train so.
        """
