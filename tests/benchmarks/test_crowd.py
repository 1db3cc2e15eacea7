"""A crowd speaks the real protocol with models larger than one message, and what fails ends a benchmark."""

from __future__ import annotations

import json
import os
import time

import pytest

from benchmarks.__main__ import main
from benchmarks.deployment import failing_with
from tests.canary.processes import descendants


@pytest.mark.slow
def test_a_crowd_ends_its_run_and_leaves_nothing_running(capsys: pytest.CaptureFixture[str]) -> None:
    before = descendants(os.getpid())
    assert main(["crowd", "--json", "--workers", "4", "--mb", "10", "--processes", "2", "--rounds", "2"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["data"]["runs"]
    assert found["workers"] == 4
    assert found["round_s"] > 0
    assert descendants(os.getpid()) == before


@pytest.mark.parametrize(("code", "fails"), [(0, False), (3, True)])
def test_a_process_that_fails_ends_the_benchmark_and_one_that_ends_well_does_not(code: int, fails: bool) -> None:
    raised = False
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(code)
    try:
        with failing_with([pid]):
            os.write(write, b".")
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            time.sleep(0.05)  # the signal is served
    except RuntimeError as error:
        raised = str(pid) in str(error)
    finally:
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
    assert raised is fails
