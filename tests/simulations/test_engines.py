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
from simulations.engines.sharing import Sharing
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


def given(engine, task, asked, *, holds_all=False, most_jobs=5):
    """The updates and the words of each of ``asked``, a model and jobs each."""
    with engine.open(task, most_jobs=most_jobs, holds_all=holds_all) as crew:
        return [[(done.update.copy(), done.trained) for done in crew.train(model, work)] for model, work in asked]


def jobs(number: int, sites: Sequence[int]) -> list[Job]:
    return [Job(site, number) for site in sites]


DRAWN = [(3, 1, 7, 9, 5), (1, 2, 3, 4, 5), (9, 8, 7, 6, 5), (5,), ()]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: f"{engine.name}-{getattr(engine, 'processes', '')}")
@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("keeps_state", [True, False])
def test_every_engine_gives_the_same_bits_whoever_does_which_job(engine, together, keeps_state):
    asked = [(np.full(4, 0.5 + number, "f4"), jobs(number, sites)) for number, sites in enumerate(DRAWN)]
    mine, theirs = (
        given(each, Counting(keeps_state, together), asked, holds_all=True) for each in (InProcess(), engine)
    )
    assert [[update.tobytes() for update, _ in each] for each in mine] == [
        [update.tobytes() for update, _ in each] for each in theirs
    ]
    assert [[said.num_examples for _, said in each] for each in mine] == [
        [said.num_examples for _, said in each] for each in theirs
    ]


def test_all_updates_stay_good_where_the_crew_holds_them():
    for engine in (InProcess(), Pool(2, window_bytes=0)):
        with engine.open(Counting(keeps_state=False), most_jobs=9, holds_all=True) as crew:
            held = list(crew.train(np.zeros(4, "f4"), jobs(1, range(9))))
        assert [done.update[0] for done in held] == list(range(9))


@dataclass
class Uneven(Counting):
    """Every fourth site takes its time."""

    def act(self, job: Job) -> None:
        time.sleep(0.03 if job.site % 4 == 0 else 0.0)


@pytest.mark.parametrize("window", [0, 1 << 20])
@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("keeps_state", [True, False])
def test_updates_come_in_the_order_of_jobs_from_as_little_room_as_there_is(window, together, keeps_state):
    task = Uneven(keeps_state, together)
    work = [(np.zeros(4, "f4"), jobs(number, range(count))) for number, count in enumerate((40, 7, 41, 0, 1))]
    for taken, (_, asked) in zip(given(Pool(3, window), task, work, most_jobs=41), work, strict=True):
        assert [(update[0], update[1]) for update, _ in taken] == [(job.site, job.round) for job in asked]
        assert [said.num_examples for _, said in taken] == [job.site + 1 for job in asked]


def test_room_is_for_what_is_at_work_and_waits_or_for_all_where_all_are_held():
    def rows(task, most_jobs, **changes):
        return Sharing(task, 2).rows(most_jobs, **({"holds_all": False, "window_bytes": 0} | changes))

    pairs, single = Counting(keeps_state=False, together=2), Counting(together=1)
    assert rows(pairs, 50) == 8
    assert rows(single, 50) == 4
    assert rows(pairs, 50, window_bytes=16 * 20) == 20
    assert rows(pairs, 5) == 5
    assert rows(pairs, 50, holds_all=True) == 50
    assert rows(Counting(together=2), 50) == 50  # a process does all its sites in one call


def test_a_crew_is_not_asked_again_before_its_answers_are_taken():
    with Pool(2).open(Counting(), most_jobs=4, holds_all=False) as crew:
        next(crew.train(np.zeros(4, "f4"), jobs(1, range(4))))
        with pytest.raises(RuntimeError, match="asked again before all answers were taken"):
            next(crew.train(np.zeros(4, "f4"), jobs(2, range(4))))


def test_a_site_stays_in_its_process_and_processes_get_as_many_sites():
    sites = [0, 2, 4, 6, 8, 10]
    asked = [(np.zeros(4, "f4"), jobs(1, sites)), (np.zeros(4, "f4"), jobs(2, sites[::-1]))]
    first, again = (
        [said.metrics["pid"] for _, said in each] for each in given(Pool(2), Counting(), asked, most_jobs=6)
    )
    assert first == again[::-1]
    assert sorted(first.count(pid) for pid in set(first)) == [3, 3]
    assert os.getpid() not in first


def test_jobs_that_belong_together_are_done_together():
    ((*answers,),) = given(
        Pool(2), Counting(keeps_state=False, together=3), [(np.zeros(4, "f4"), jobs(1, range(6)))], most_jobs=6
    )
    assert {said.metrics["jobs"] for _, said in answers} == {3.0}


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
    with pytest.raises(RuntimeError) as caught:
        given(Pool(2), Dying(keeps_state, how=how), [(np.zeros(4, "f4"), jobs(1, range(5)))])
    assert f"died ({sentence})" in str(caught.value)
    assert time.monotonic() - begun < 10


def test_what_a_task_raises_in_a_process_is_raised_here():
    with pytest.raises(ValueError, match="site three has no such column") as caught:
        given(Pool(2), Dying(how="raise"), [(np.zeros(4, "f4"), jobs(1, range(5)))])
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
    with Pool(2).open(Counting(), most_jobs=4, holds_all=False) as crew:
        answers = crew.train(np.zeros(4, "f4"), jobs(1, range(4)))
        pids = {int(done.trained.metrics["pid"]) for done in answers}
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
