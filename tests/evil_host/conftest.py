"""One federation for all attacks: it is immutable, only runs have state."""

import pytest

from tests.world import World


@pytest.fixture(scope="session")
def world(software_root, chip):
    return World(software_root, chip)
