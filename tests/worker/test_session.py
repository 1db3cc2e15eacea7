"""One session of a worker against a real aggregator in memory: what its operator's word, a slow site and a clock do."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.enclave.effects import Close, Effect, Send
from softtee.chip import Chip, SoftwareRoot
from tests.world import INITIAL, Net, SimpleSite, World
from trusted.blob import BlobHeader
from trusted.channel.results import aggregator_subject
from trusted.clock import JumpDetector
from trusted.errors import Reason
from trusted.evidence.clocks import counted_s, utc_now
from trusted.exchange import Exchanged
from worker.contribution import Contributor
from worker.operator import Departed, Operator, Wish, write_wish
from worker.participant import Closed
from worker.session_loop import SessionLoop, Site

MEMBER = "site-1"


class Joined(Net):
    """The other sites live here and wait; one connection belongs to a worker's own thread."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.lock = threading.RLock()
        self.now = utc_now()
        self.frames: dict[int, queue.SimpleQueue[bytes | None]] = {}

    def join(self, site: SimpleSite) -> int:
        site.automatic = False
        return super().join(site)

    def perform_one(self, effect: Effect) -> None:
        super().perform_one(effect)
        if isinstance(effect, Send) and effect.connection in self.frames:
            self.frames[effect.connection].put(effect.frame)
        if isinstance(effect, Close) and effect.connection in self.frames:
            self.frames[effect.connection].put(None)

    def open(self) -> Frames:
        with self.lock:
            connection = 100 + len(self.frames)
            self.frames[connection] = queue.SimpleQueue()
            self.perform(self.aggregator.attach(connection, self.now))
        return Frames(self, connection)

    def tick(self) -> None:
        with self.lock:
            self.now = utc_now()
            self.perform(self.aggregator.tick(self.now))


@dataclass
class Frames:
    net: Joined
    connection: int

    def send(self, frame: bytes) -> None:
        with self.net.lock:
            self.net.now = utc_now()
            self.net.perform(self.net.aggregator.receive(self.connection, frame, self.net.now))

    def receive(self, timeout: float | None = None) -> bytes | None:
        return self.net.frames[self.connection].get()

    def close(self) -> None:
        self.net.frames[self.connection].put(None)


@dataclass
class Trained:
    delta: np.ndarray
    num_examples: int = 10
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Place:
    """The worker of site-1: its trainer waits for the test."""

    world: World
    net: Joined
    control: Path
    go_on: threading.Event = field(default_factory=threading.Event)
    training: threading.Event = field(default_factory=threading.Event)
    rounds: list[int] = field(default_factory=list)
    noted: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    beats: int = 0
    outcome: Any = None

    def __post_init__(self) -> None:
        identity = self.world.identity("worker")
        contributor = Contributor(
            exchanged=Exchanged.of(self.world.federation.plan),
            transport=self,
            trainer=self,
            signing_key=identity.signing_key,
            allowed_metrics=frozenset(),
            train_timeout_s=60,
        )
        self.site = Site(
            participant=self.world.participant(MEMBER),
            identity=identity,
            membership=self.world.membership(MEMBER),
            contributor=contributor,
            initial=INITIAL,
            aggregator=aggregator_subject(self.world.plan.digest),
            reattest_s=60,
            note=lambda event, **fields: self.noted.append((event, fields)),
            operator=Operator(self.control),
            trainer_beat=lambda: self.beats,
            beat_s=0.0,
            jumps=JumpDetector(utc_now(), counted_s()),
        )

    def get_blob(self, blob: bytes, *, header: BlobHeader) -> Iterator[memoryview]:
        yield memoryview(self.net.store.blobs[blob])

    def put_blob(self, blob: bytes, sealed: memoryview, progress: Callable[[int], None]) -> None:
        progress(len(sealed))
        self.net.store.blobs[blob] = bytes(sealed)

    def train(self, model: np.ndarray, round_number: int, *, timeout_s: float) -> Trained:
        self.rounds.append(round_number)
        self.training.set()
        assert self.go_on.wait(30)
        return Trained(np.zeros_like(model))

    def attend(self) -> threading.Thread:
        """One session, on a thread of its own; ``outcome`` is how it ended."""

        def run() -> None:
            channel = self.world.worker_channel(MEMBER)
            channel = type(channel)(self.world.federation, self.site.identity, self.site.membership)
            self.outcome = SessionLoop(self.site, channel, self.net.open()).run()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def names(self) -> list[str]:
        return [name for name, _ in self.noted]


def until(holds: Callable[[], object], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def world(software_root: SoftwareRoot, chip: Chip) -> World:
    return World(software_root, chip)


@pytest.fixture
def place(world: World, tmp_path: Path) -> Iterator[Place]:
    """Three manual sites and the worker of site-1, in a started run."""
    made = Place(world, Joined(world), tmp_path)
    with made.net.lock:
        made.net.start()
        for member in world.members[1:]:
            made.net.join(SimpleSite(world, member))
    yield made
    made.go_on.set()


def told(place: Place, event: str) -> list[dict[str, Any]]:
    return place.net.outcomes(event)


def test_a_paused_site_finishes_what_it_trains_and_takes_no_further_task(place: Place) -> None:
    place.attend()
    assert place.training.wait(15)
    write_wish(place.control, Wish.PAUSE)
    until(lambda: told(place, "away"))
    place.go_on.set()
    until(lambda: any(entry.get("member") == MEMBER for entry in told(place, "contribution")))
    with place.net.lock:
        for connection in (1, 2, 3):
            place.net.contribute(connection, place.net.sites[connection].tasks[-1])
    assert [entry["outcome"] for entry in told(place, "contribution")] == ["counted"] * 4
    assert told(place, "round-opened")[-1]["waiting_for"] == list(place.world.members[1:])
    assert place.rounds == [1]
    write_wish(place.control, Wish.TAKE_PART)
    until(lambda: told(place, "back"))
    assert place.names().count("site-paused") == place.names().count("site-resumed") == 1


def test_a_site_that_is_paused_from_the_start_fails_its_task_with_the_reason_and_holds_nobody_up(place: Place) -> None:
    write_wish(place.control, Wish.PAUSE)
    place.attend()
    until(lambda: told(place, "round-opened"))
    assert told(place, "round-opened")[0]["waiting_for"] == list(place.world.members[1:])
    assert told(place, "away") == [{"member": MEMBER, "reason": "RND-611"}]
    assert place.rounds == []


@pytest.mark.parametrize(("leaves", "reason"), [(False, "RND-612"), (True, "RND-613")], ids=["withdraws", "SIGTERM"])
def test_a_site_that_goes_says_so_while_it_trains(place: Place, leaves: bool, reason: str) -> None:
    thread = place.attend()
    assert place.training.wait(15)
    if leaves:
        place.site.operator.leave()
    else:
        write_wish(place.control, Wish.WITHDRAW)
    thread.join(20)
    assert place.outcome == Departed(Wish.LEAVE if leaves else Wish.WITHDRAW)
    assert [entry["reason"] for entry in told(place, "left")] == [reason]


def test_work_that_outlives_its_session_is_told_in_the_next_one(place: Place) -> None:
    """The task comes again and waits for the very work that is at it: what that moves is this site's progress."""
    thread = place.attend()
    assert place.training.wait(15)
    pulse = place.site.pulse
    for frames in place.net.frames.values():
        frames.put(None)
    thread.join(5)
    assert place.outcome is None
    place.attend()
    until(lambda: len(place.net.frames) == 2 and 101 in place.net.aggregator._run._admissions.members.values())
    vigil = place.net.aggregator._run._attendance.vigil
    place.beats += 5
    until(lambda: (sign := vigil.last(MEMBER)) is not None and sign.stage == "train" and sign.beat >= 5)
    assert place.site.pulse is pulse
    place.go_on.set()
    until(lambda: {"round": 1, "member": MEMBER, "outcome": "counted"} in told(place, "contribution"))
    assert place.rounds == [1]  # trained once


def test_a_stopped_run_is_heard_while_the_site_trains(place: Place) -> None:
    thread = place.attend()
    assert place.training.wait(15)
    with place.net.lock:
        place.net.perform(place.net.aggregator.stop(utc_now()))
    thread.join(20)
    assert isinstance(place.outcome, Closed)
    assert place.outcome.outcome == "stopped"


def test_progress_of_a_trainer_that_works_is_told_and_that_of_one_that_hangs_is_not(place: Place) -> None:
    place.attend()
    assert place.training.wait(15)
    vigil = place.net.aggregator._run._attendance.vigil
    until(lambda: (sign := vigil.last(MEMBER)) is not None and sign.stage == "train")
    first = vigil.last(MEMBER)
    place.beats += 5
    until(lambda: vigil.last(MEMBER) != first)
    second = vigil.last(MEMBER)
    time.sleep(2.5)
    assert vigil.last(MEMBER) == second


def test_a_task_of_a_later_round_waits_for_the_work_of_an_earlier_one(place: Place) -> None:
    """A site that is slower than a round used to lose its worker for that."""
    place.attend()
    assert place.training.wait(15)
    with place.net.lock:
        for connection in (1, 2, 3):
            place.net.contribute(connection, place.net.sites[connection].tasks[-1])
        current = place.net.aggregator._run._rounds.current
        assert current is not None
        current.deadline = utc_now() - timedelta(seconds=1)
    place.net.tick()
    assert told(place, "round-opened")[-1]["round"] == 2
    time.sleep(0.5)
    place.go_on.set()
    until(lambda: place.rounds == [1, 2])
    until(lambda: {"round": 2, "member": MEMBER, "outcome": "counted"} in told(place, "contribution"))
    assert place.net.closed == {}


@pytest.mark.parametrize("years", [-2, 2])
def test_a_clock_that_jumps_ends_the_session_alone_and_is_named(place: Place, years: int) -> None:
    thread = place.attend()
    assert place.training.wait(15)
    jumps = place.site.jumps
    assert jumps is not None
    jumps.wall -= timedelta(days=365 * years)  # as if it had been read in another year
    thread.join(5)
    assert place.outcome is None  # it comes back
    ((_, fields),) = [entry for entry in place.noted if entry[0] == "clock-jumped"]
    assert abs(float(str(fields["seconds"])) - 365 * years * 86400) < 5
    assert Reason.CLOCK_JUMPED.code == "CHN-413"
