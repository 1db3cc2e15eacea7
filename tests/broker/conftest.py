"""A store on a disk, in a federation whose charter also admits recipients' runtimes."""

from __future__ import annotations

import pytest

from broker.store import KeyStore
from tests.keys.conftest import world as world
from tests.keys.holdings import MEMBER
from trusted.hpke import SealingKey


@pytest.fixture(scope="session")
def store_key() -> SealingKey:
    return SealingKey.generate()


@pytest.fixture
def store(tmp_path, store_key) -> KeyStore:
    with KeyStore.create(tmp_path / "store", member=MEMBER, public=store_key.public) as made:
        yield made
