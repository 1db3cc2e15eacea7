"""Engines give the same bits, keep a site's state with its site, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from simulations.engines.in_process import InProcess
from simulations.engines.pool import Pool
from simulations.task import Job, Trained
from trusted.documents.layout import Dtype, Layout, TensorSpec

ROOT = Path(__file__).parents[2]
LAYOUT = Layout((TensorSpec("w", Dtype.FLOAT32, (4,)),))
ENGINES = [InProcess(), Pool(2), Pool(3), Pool()]


@dataclass
class Counting:
    """Adds to the model what a site has seen so far: the number of its calls, or that of all jobs in the call."""

    keeps_state: bool = True
    together: int = 1
    calls: dict[int, int] = field(default_factory=dict)
    layout: Layout = LAYOUT

    def initial(self):
        return np.zeros(4, "f4")

    def train(self, model, jobs: Sequence[Job], out):
        trained = []
        for job, row in zip(jobs, out, strict=True):
            self.act(job)
            self.calls[job.site] = self.calls.get(job.site, 0) + 1
            seen = self.calls[job.site] if self.keeps_state else 0
            row[:] = model + np.array([job.site, job.round, seen, 0])
            trained.append(Trained(job.site + 1, {"pid": float(os.getpid()), "jobs": float(len(jobs))}, 0.0))
        return trained

    def act(self, job: Job) -> None:
        pass

    def evaluate(self, model):
        return {}


def jobs(number: int, sites: Sequence[int]) -> list[Job]:
    return [Job(site, number) for site in sites]


DRAWN = [(3, 1, 7, 9, 5), (1, 2, 3, 4, 5), (9, 8, 7, 6, 5), (5,), ()]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: f"{engine.name}-{getattr(engine, 'processes', '')}")
@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("keeps_state", [True, False])
def test_every_engine_gives_the_same_bits_whoever_does_which_job(engine, together, keeps_state):
    given = []
    for each in (InProcess(), engine):
        with each.open(Counting(keeps_state, together), most_jobs=5) as crew:
            asked = [crew.train(np.full(4, 0.5, "f4"), jobs(number, sites)) for number, sites in enumerate(DRAWN)]
            given.append([])
            for number, sites in enumerate(DRAWN):
                answers = crew.train(np.full(4, number, "f4"), jobs(number, sites))
                given[-1].append((answers.updates.copy(), [(said.num_examples) for said in answers.trained]))
            assert len(asked) == len(DRAWN)
    for (mine, said), (theirs, told) in zip(*given, strict=True):
        assert mine.tobytes() == theirs.tobytes()
        assert said == told


def test_a_site_stays_in_its_process_and_processes_get_as_many_sites():
    with Pool(2).open(Counting(), most_jobs=6) as crew:
        first = crew.train(np.zeros(4, "f4"), jobs(1, [0, 2, 4, 6, 8, 10])).trained
        again = crew.train(np.zeros(4, "f4"), jobs(2, [10, 8, 6, 4, 2, 0])).trained
    pids = [said.metrics["pid"] for said in first]
    assert pids == [said.metrics["pid"] for said in reversed(again)]
    assert sorted(pids.count(pid) for pid in set(pids)) == [3, 3]
    assert os.getpid() not in pids


def test_jobs_that_belong_together_are_done_together():
    with Pool(2).open(Counting(keeps_state=False, together=3), most_jobs=6) as crew:
        trained = crew.train(np.zeros(4, "f4"), jobs(1, range(6))).trained
    assert {said.metrics["jobs"] for said in trained} == {3.0}


@dataclass
class Dying(Counting):
    how: str = "kill"

    def act(self, job: Job) -> None:
        if job.site == 3:
            if self.how == "raise":
                raise ValueError("site three has no such column")
            os.kill(os.getpid(), signal.SIGKILL) if self.how == "kill" else os._exit(7)


@pytest.mark.parametrize("keeps_state", [True, False])
@pytest.mark.parametrize(("how", "sentence"), [("kill", "signal 9"), ("exit", "exit code 7")])
def test_a_process_that_dies_is_a_clear_error_at_once(how, sentence, keeps_state):
    begun = time.monotonic()
    with Pool(2).open(Dying(keeps_state, how=how), most_jobs=5) as crew, pytest.raises(RuntimeError) as caught:
        crew.train(np.zeros(4, "f4"), jobs(1, range(5)))
    assert f"died ({sentence})" in str(caught.value)
    assert time.monotonic() - begun < 10


def test_what_a_task_raises_in_a_process_is_raised_here():
    with (
        Pool(2).open(Dying(how="raise"), most_jobs=5) as crew,
        pytest.raises(ValueError, match="site three has no such column") as caught,
    ):
        crew.train(np.zeros(4, "f4"), jobs(1, range(5)))
    assert any("in act" in note for note in caught.value.__notes__)


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_context_leaves_no_process():
    with Pool(2).open(Counting(), most_jobs=4) as crew:
        pids = {int(said.metrics["pid"]) for said in crew.train(np.zeros(4, "f4"), jobs(1, range(4))).trained}
        assert all(map(alive, pids))
    assert not any(map(alive, pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_neither_ctrl_c_nor_the_death_of_the_parent_leaves_a_process_behind(number):
    script = textwrap.dedent(
        """
        import time
        from tests.simulations.linear import FUNCTION, simulation
        from simulations.tasks.function import Function

        def forever(arrays, rows, rng, config):
            print("training", flush=True)
            time.sleep(0.05)
            return FUNCTION.trains(arrays, rows, rng, config)

        simulation(Function(forever, FUNCTION.initial), rounds=10_000, engine="pool").run()
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    pids = children_of(parent.pid)
    assert pids
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)  # as a terminal does
    else:
        parent.kill()
    _, errors = parent.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)
