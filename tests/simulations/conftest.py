from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.world import World


@pytest.fixture(scope="session")
def world(software_root, chip):
    return World(software_root, chip)


@pytest.fixture(autouse=True)
def nothing_stays_imported() -> Iterator[None]:
    """A deployed worker's process has one app; here many come after each other, some of one name."""
    before, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"rand_hie", "bank_fraud"}:
            del sys.modules[name]
