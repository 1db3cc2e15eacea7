"""Running what forks as a process of its own. ``tests/conftest.py`` has the options."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.outcomes import FAILED

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE, SAMPLE_S = 12, 75.0  # schedules in a plain run of the tests, and when it begins no further one


Outcomes = Iterator[dict[str, Any]]
Run = Callable[..., Outcomes]


@pytest.fixture
def run_module() -> Run:
    """Run a module of this folder as a process of its own, for it forks; its JSON lines, as they come."""

    def run(module: str, *arguments: str) -> Outcomes:
        command = [sys.executable, "-m", f"tests.faults{module}", *arguments]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    yield json.loads(line)
            except BaseException:
                process.terminate()
                raise
        assert process.returncode in (0, FAILED), f"exit code {process.returncode}"

    return run
