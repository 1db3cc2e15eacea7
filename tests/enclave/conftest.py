"""One federation for all tests of the enclave: it is immutable, only runs have state."""

import pytest

from tests.world import World


@pytest.fixture(scope="session")
def world(software_root, chip):
    return World(software_root, chip)
