"""One federation for all attacks: it is immutable, only runs have state."""

import pytest

from softtee.chip import Chip, SoftwareRoot
from tests.world import World


@pytest.fixture(scope="session")
def world(software_root: SoftwareRoot, chip: Chip) -> World:
    return World(software_root, chip)
