"""What every test may share: one time, one software root (its keys are slow to draw) and one chip under it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir

import pytest
from hypothesis import settings

from softtee.chip import Chip, SoftwareRoot

_ROOT = Path(__file__).resolve().parents[1]
_EXAMPLES = _ROOT / "examples"
_FORK = (
    "test_trainer_process.py",
    "test_trainer_confinement.py",
    "test_trainer_judging.py",
    "test_hostile_app.py",
    "test_data_start.py",
    "test_scorer.py",
    "test_server_process.py",
    "test_trainer_messages.py",
)

settings.register_profile("untimed", deadline=None)  # machines differ, and ours are shared
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of ``tests/faults``; pytest reads options from this folder alone."""
    group = parser.getgroup("faults")
    group.addoption("--schedules", type=int, default=0, help="fault schedules to run; 0: a sample, in bounded time")
    group.addoption("--seed", default="cloister", help="what fault schedules are drawn from")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fork come first: a worker forks before it has threads, and other tests may leave some behind.

    Then what takes longest, so that at the end no process of the test run is left alone with it.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("faults")}
    items.sort(key=lambda item: (item.path.name not in _FORK, item.path not in slow))


@pytest.fixture(scope="module", autouse=True)
def no_app_of_another_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An app's process has one app. Here many come after each other, some of one name: none outlives its test file."""
    path, places = list(sys.path), (tmp_path_factory.getbasetemp().resolve(), Path(gettempdir()).resolve(), _EXAMPLES)
    yield
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        source = getattr(module, "__file__", None)
        if source and any(map(Path(source).resolve().is_relative_to, places)) and not _is_ours(name):
            del sys.modules[name]


def _is_ours(name: str) -> bool:
    """Whether a module is the project's own, whose checkout may lie in a temporary folder."""
    return (_ROOT / name.partition(".")[0]).is_dir()


@pytest.fixture(scope="session")
def now() -> datetime:
    """One time for the whole test run, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="session")
def software_root(now: datetime) -> SoftwareRoot:
    """A throw-away root for Genoa chips. Do not change it: it is shared."""
    return SoftwareRoot.create(now=now)


@pytest.fixture(scope="session")
def chip(software_root: SoftwareRoot, now: datetime) -> Chip:
    """A chip of ``software_root``."""
    return software_root.issue_chip(now=now)
