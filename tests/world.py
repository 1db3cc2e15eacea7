"""The federation in memory that simulations have, at a time and under the names that tests know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from simulations.hosts.consortium import (
    AGGREGATOR_MEASUREMENT,
    INITIAL,
    LAYOUT,
    MEASUREMENTS,
    MEMBERS,
    WORKER_MEASUREMENT,
    ChipProvider,
    Consortium,
    envelope,
    policy,
    soon,
)
from simulations.hosts.net import Net
from simulations.hosts.site import Site as SimpleSite
from simulations.hosts.store import MemoryStore

NOW = soon()  # after the fixtures made their certificates

__all__ = [
    "AGGREGATOR_MEASUREMENT",
    "INITIAL",
    "LAYOUT",
    "MEASUREMENTS",
    "MEMBERS",
    "NOW",
    "WORKER_MEASUREMENT",
    "ChipProvider",
    "MemoryStore",
    "Net",
    "SimpleSite",
    "World",
    "envelope",
    "policy",
]


@dataclass
class World(Consortium):
    """A consortium at the tests' time."""

    now: datetime = NOW
