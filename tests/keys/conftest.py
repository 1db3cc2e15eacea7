"""Federations whose charter also admits recipients' runtimes; they are immutable, only exchanges have state."""

from __future__ import annotations

import pytest

from tests import world as worlds
from tests.keys.holdings import MemoryHoldings
from tests.world import World, policy

RECIPIENT_MEASUREMENT = b"\xdd" * 48
worlds.MEASUREMENTS.setdefault("recipient", RECIPIENT_MEASUREMENT)


@pytest.fixture(scope="session")
def world(software_root, chip) -> World:
    return World(software_root, chip, charter_changes={"recipient": policy(RECIPIENT_MEASUREMENT)})


@pytest.fixture
def holdings(world) -> MemoryHoldings:
    return MemoryHoldings([world.federation])
