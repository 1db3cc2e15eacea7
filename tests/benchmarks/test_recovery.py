"""What dies comes back and is measured. No time is asserted: machines differ, and ours are shared."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.deployment import Deployment
from benchmarks.supervised import supervise
from tests.canary.processes import descendants


@pytest.mark.slow
def test_recovery_is_measured_and_nothing_is_left_running(capsys: pytest.CaptureFixture[str]) -> None:
    before = descendants(os.getpid())
    asked = ["--mb", "0.1", "--kills", "1", "--workers", "3", "--processes", "1", "--rounds", "4"]
    assert main(["recovery", "--json", *asked, "--every-s", "2", "--training-s", "0.6"]) == 0
    found = json.loads(capsys.readouterr().out)["data"]
    (aggregator,) = found["aggregator"]
    assert aggregator["kills"] == 1
    assert 0 < aggregator["recovered_s"] <= aggregator["folded_s"]
    assert found["host"]["kills"] >= 1
    assert found["host"]["ratio"] > 0
    assert descendants(os.getpid()) == before


@pytest.mark.slow
def test_a_supervised_process_comes_back_when_it_is_killed_and_ends_with_its_supervisor(tmp_path: Path) -> None:
    before = descendants(os.getpid())
    with ExitStack() as stack:
        sleeper = supervise(
            stack, tmp_path, "sleeper", Deployment(2, 1, 1), lambda: os.execv("/bin/sleep", ["sleep", "60"])
        )
        while sleeper.life() is None:
            pass
        first = sleeper.life()
        second = sleeper.kill()
        assert first is not None
        assert (second.number, second.pid != first.pid) == (first.number + 1, True)
        assert second.began > first.began
    assert descendants(os.getpid()) == before
