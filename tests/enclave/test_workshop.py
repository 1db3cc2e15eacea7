"""Jobs on threads: done again while the door is broken, and a bug in one is never silent."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from coordinator.enclave import workshop
from coordinator.enclave.workshop import Finish, Workshop
from tests.world import NOW
from trusted.errors import Reason, RoundError, WireError


class Shell:
    """Takes posts on the test's thread, as the aggregator's shell does."""

    def __init__(self) -> None:
        self.posts: queue.Queue[Finish] = queue.Queue()
        self.workshop = Workshop(self.posts.put)
        self.told: list[tuple[object, datetime, int]] = []

    def submit(self, work: Callable[[], object]) -> None:
        done = lambda value, now: self.told.append((value, now, threading.get_ident()))  # noqa: E731
        self.workshop.submit(work, done, NOW)

    def take(self, wait_s: float = 10) -> object:
        self.posts.get(timeout=wait_s)(NOW)
        return self.told[-1][0]

    def is_silent(self, wait_s: float = 0.2) -> bool:
        try:
            self.posts.get(timeout=wait_s)
        except queue.Empty:
            return True
        return False


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setattr(workshop, "_AGAIN_S", 0.01)
    shell = Shell()
    yield shell
    shell.workshop.close()


def test_the_outcome_comes_back_to_the_thread_that_takes_posts(shell: Shell) -> None:
    shell.submit(threading.get_ident)
    worker = shell.take()
    assert worker != threading.get_ident()
    assert shell.told == [(worker, NOW, threading.get_ident())]


@pytest.mark.parametrize(
    "failure",
    [ConnectionResetError(), TimeoutError(), WireError(Reason.UNEXPECTED_MESSAGE, "door: another answer")],
    ids=["hung up", "silent", "not a door's answer"],
)
def test_a_job_is_done_again_from_its_start_until_the_door_answers(shell: Shell, failure: Exception) -> None:
    attempts: list[int] = []

    def work() -> str:
        attempts.append(len(attempts))
        if len(attempts) < 4:
            raise failure
        return "done"

    shell.submit(work)
    assert shell.take() == "done"
    assert attempts == [0, 1, 2, 3]
    assert shell.is_silent()


@pytest.mark.parametrize("bug", [RuntimeError, ValueError, KeyError, SystemExit])
def test_a_bug_in_a_job_is_raised_where_posts_are_taken_and_it_is_not_repeated(
    shell: Shell, bug: type[BaseException]
) -> None:
    attempts: list[int] = []

    def work() -> None:
        attempts.append(1)
        raise bug("a bug")

    shell.submit(work)
    with pytest.raises(bug, match="a bug"):
        shell.take()
    assert attempts == [1]
    assert shell.told == []


def test_a_job_whose_door_stays_broken_holds_up_no_other(shell: Shell) -> None:
    def broken() -> None:
        raise ConnectionResetError

    shell.submit(broken)
    shell.submit(lambda: "the other")
    assert shell.take() == "the other"


def test_closing_ends_what_is_repeated_and_lets_nothing_start(shell: Shell) -> None:
    attempts: list[int] = []

    def broken() -> None:
        attempts.append(1)
        raise ConnectionResetError

    shell.submit(broken)
    while not attempts:
        time.sleep(0.001)
    shell.workshop.close()
    time.sleep(0.05)
    seen = len(attempts)
    assert shell.is_silent()
    assert len(attempts) == seen
    with pytest.raises(RuntimeError):
        shell.submit(lambda: "too late")


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.setattr(workshop.os, "cpu_count", lambda: 3)
    made = Workshop(lambda finish: None)
    yield made
    made.close()


def test_every_lane_runs_once_and_all_are_done_on_return(lanes: Workshop) -> None:
    done: list[tuple[int, int]] = []

    def work(lane: int, count: int) -> None:
        time.sleep(0.02 * lane)
        done.append((lane, count))

    lanes.each_lane(work)
    assert sorted(done) == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_what_one_lane_raises_is_raised_once_no_lane_is_at_work(lanes: Workshop, bad: int) -> None:
    at_work: set[int] = set()

    def work(lane: int, count: int) -> None:
        at_work.add(lane)
        if lane == bad:
            at_work.discard(lane)
            raise RoundError(Reason.ROUND_STATE, "a lane")
        time.sleep(0.05)
        at_work.discard(lane)

    with pytest.raises(RoundError):
        lanes.each_lane(work)
    assert at_work == set()


def test_lanes_of_two_jobs_at_once_do_not_wait_for_each_other_for_ever() -> None:
    shell = Shell()
    for _ in range(4):
        shell.submit(lambda: shell.workshop.each_lane(lambda lane, lanes: time.sleep(0.01)))
    for _ in range(4):
        assert shell.take() is None
    shell.workshop.close()
