"""Federations whose charter also admits recipients' runtimes; they are immutable, only sessions have state."""

from __future__ import annotations

import pytest

from tests.scoring.sides import SERVICE_MEASUREMENT
from tests.world import World, policy


@pytest.fixture(scope="session")
def world(software_root, chip) -> World:
    return World(software_root, chip, charter_changes={"recipient": policy(SERVICE_MEASUREMENT)})
