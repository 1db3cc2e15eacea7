"""One session, driven from the other side: work that comes while other work is under way, and what is sent again."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.world import INITIAL, World
from trusted.blob import BlobHeader, BlobKind, ContentKey, seal_vector
from trusted.channel.aggregator import AggregatorChannel
from trusted.channel.states import State
from trusted.channel.worker import WorkerChannel
from trusted.exchange import AGGREGATOR, Announcement, Exchanged
from trusted.wire import sha256
from worker.contribution import Contributor
from worker.participant import Closed, SendInitial
from worker.session_loop import SessionLoop, Site

_PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def world(software_root, chip) -> World:
    return World(software_root, chip)


class Store:
    """What a host does, in memory: the first bytes of a name stay."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}

    def get_blob(self, blob: bytes, *, header: BlobHeader) -> Iterator[memoryview]:
        yield memoryview(self.blobs[blob])

    def put_blob(self, blob: bytes, sealed: memoryview, progress: Callable[[int], None]) -> None:
        self.blobs.setdefault(blob, bytes(sealed))


@dataclass
class Trained:
    delta: np.ndarray
    num_examples: int
    metrics: dict[str, float]


class Training:
    """Waits for the test in every round, and tells of it."""

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.may_end = threading.Semaphore(0)

    def train(self, model: np.ndarray, round_number: int, *, timeout_s: float) -> Trained:
        self.begun.put(round_number)
        assert self.may_end.acquire(timeout=_PATIENCE_S)
        return Trained(np.full_like(model, 0.5), 10, {})


class Frames:
    """A stream to the aggregator of the test."""

    def __init__(self) -> None:
        self.up: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.down: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def send(self, frame: bytes) -> None:
        self.up.put(frame)

    def receive(self, timeout: float | None = None) -> bytes | None:
        return self.down.get(timeout=timeout)

    def close(self) -> None:
        self.down.put(None)


class Session:
    """A worker of ``site-1`` on a thread, and the aggregator's end of its session."""

    def __init__(self, world: World) -> None:
        self.world, self.store, self.training, self.frames = world, Store(), Training(), Frames()
        self.identity, worker = world.identity("aggregator"), world.identity("worker")
        self.exchanged = Exchanged.of(world.federation.plan)
        contributor = Contributor(
            self.exchanged,
            self.store,
            self.training,
            worker.signing_key,
            frozenset(),
            60,  # type: ignore[arg-type]
        )
        participant, membership = world.participant("site-1"), world.membership("site-1")
        site = Site(
            participant,
            worker,
            membership,
            contributor,
            INITIAL,
            "aggregator",
            60,
            lambda event, **_: self.noted.put(event),
        )
        self.noted: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.loop = SessionLoop(site, WorkerChannel(world.federation, worker, membership), self.frames)
        self.ended: list[Any] = []
        self.thread = threading.Thread(target=lambda: self.ended.append(self.loop.run()), daemon=True)
        self.channel = AggregatorChannel(world.federation, self.identity, world.now)

    def __enter__(self) -> Session:
        self.thread.start()
        while self.channel.state is not State.OPEN:
            self._take(self.frames.up.get(timeout=_PATIENCE_S))
        return self

    def __exit__(self, *_: object) -> None:
        self.training.may_end.release(100)
        self.frames.close()
        self.thread.join(_PATIENCE_S)

    def _take(self, frame: bytes) -> tuple[dict[str, Any], ...]:
        received = self.channel.receive(frame, self.world.now)
        for reply in received.replies:
            self.frames.down.put(reply)
        return received.messages

    def heard(self, kind: str) -> dict[str, Any]:
        """The next message of this type; others, of progress, are passed over."""
        while True:
            for message in self._take(self.frames.up.get(timeout=_PATIENCE_S)):
                if message["type"] == kind:
                    return message
                assert message["type"] == "progress"

    def say(self, message: dict[str, Any]) -> None:
        self.frames.down.put(self.channel.session.send(message))

    def task(self, number: int) -> dict[str, Any]:
        header = self.exchanged.header(BlobKind.MODEL, number, AGGREGATOR)
        key, blob = ContentKey.generate(), bytes([number]) * 16
        parts = seal_vector(header, INITIAL, key=key, signing_key=self.identity.signing_key)
        self.store.blobs[blob] = b"".join(bytes(part) for part in parts)
        model = Announcement(blob, key.secret, sha256(header.encode()), self.identity.verify_key).to_json()
        size = self.exchanged.header(BlobKind.UPDATE, number, "site-1").sealed_bytes
        upload = {"blob": (bytes([100 + number]) * 16).hex(), "bytes": size}
        return {"type": "task", "round": number, "model": model, "upload": upload}


def test_a_round_that_opens_while_this_site_still_trains_for_the_one_before_is_trained_next(world) -> None:
    with Session(world) as session:
        session.say(session.task(1))
        assert session.training.begun.get(timeout=_PATIENCE_S) == 1
        session.say(session.task(2))
        session.training.may_end.release(2)
        assert session.heard("update")["round"] == 1
        assert session.heard("update")["round"] == 2


def test_of_several_that_open_meanwhile_the_last_one_counts(world) -> None:
    with Session(world) as session:
        session.say(session.task(1))
        assert session.training.begun.get(timeout=_PATIENCE_S) == 1
        for number in (2, 3):
            session.say(session.task(number))
        session.say({"type": "receipt", "round": 1, "reason": None})
        while session.noted.get(timeout=_PATIENCE_S) != "receipt":  # so both tasks before it were taken
            pass
        session.training.may_end.release(2)
        assert [session.heard("update")["round"], session.heard("update")["round"]] == [1, 3]


def test_a_task_that_is_told_again_while_it_is_at_work_is_done_once(world) -> None:
    with Session(world) as session:
        task = session.task(1)
        session.say(task)
        assert session.training.begun.get(timeout=_PATIENCE_S) == 1
        session.say(task)
        session.say({"type": "closed", "outcome": "finished", "rounds": 1})
        session.training.may_end.release()
        session.thread.join(_PATIENCE_S)
        assert session.training.begun.empty()


def test_whoever_is_sent_home_says_that_it_heard(world) -> None:
    with Session(world) as session:
        session.say({"type": "closed", "outcome": "finished", "rounds": 2})
        assert session.heard("heard") == {"type": "heard"}
        session.thread.join(_PATIENCE_S)
        assert session.ended == [Closed("finished", 2)]


def test_an_initial_model_that_is_asked_for_again_is_the_same_bytes_under_the_same_key(world) -> None:
    session = Session(world)
    contributor = session.loop._site.contributor
    header = session.exchanged.header(BlobKind.INITIAL, 0, "site-1")
    order = SendInitial(b"a" * 16, header)
    first = contributor.send_initial(order, INITIAL)
    kept = session.store.blobs.pop(order.blob)
    assert contributor.send_initial(order, INITIAL) == first
    assert session.store.blobs[order.blob] == kept
    other = contributor.send_initial(SendInitial(b"b" * 16, header), INITIAL)
    assert other["key"] != first["key"]
