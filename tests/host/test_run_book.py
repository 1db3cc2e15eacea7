"""What a host counts of a run: told at once, stored together, and not lost when it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.host import run_book
from coordinator.host.events import public_event
from coordinator.host.limits import Limits
from coordinator.host.metrics import HostMetrics
from coordinator.host.run_book import RunBook
from coordinator.host.state_sqlite import SqliteState
from tests.host.conftest import OTHER_PLAN, PLAN
from trusted.errors import Reason, RunError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Counting(SqliteState):
    """Notes what is asked of it; a store that is ``away`` takes no counts."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.away = False
        self.added: list[tuple[bytes, int, int]] = []
        self.reads = 0

    async def add_bytes(self, plan: bytes, bytes_in: int, bytes_out: int) -> None:
        self.added.append((plan, bytes_in, bytes_out))
        if self.away:
            raise RunError(Reason.STORE_AWAY, "store: away")
        await super().add_bytes(plan, bytes_in, bytes_out)

    async def events(self, plan: bytes, after: int, limit: int = 256) -> list[tuple[int, str]]:
        self.reads += 1
        return await super().events(plan, after, limit)


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[Counting]:
    state = Counting(tmp_path / "host.sqlite")
    yield state
    await state.close()


@pytest.fixture
async def book(state: Counting) -> AsyncIterator[RunBook]:
    book = RunBook(state, HostMetrics(), Limits(), lambda: NOW)
    for plan in (PLAN, OTHER_PLAN):
        await book.record(plan, public_event({"event": "run-started"}, plan=plan, now=NOW))
    yield book
    await book.close()


async def stored(state: Counting) -> dict[bytes, tuple[int, int]]:
    return {run.plan: (run.bytes_in, run.bytes_out) for run in await state.runs()}


async def test_what_many_streams_carried_is_told_at_once_and_stored_together(
    state: Counting, book: RunBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_book, "_COUNT_S", 0.01)
    for _ in range(20):
        book.carried(PLAN, bytes_in=3)
        book.carried(PLAN, bytes_out=5)
    book.carried(OTHER_PLAN, bytes_in=7)
    assert (book.status(PLAN).bytes_in, book.status(PLAN).bytes_out) == (60, 100)
    assert state.added == []
    while len(state.added) < 2:
        await asyncio.sleep(0.01)
    assert sorted(state.added) == sorted([(PLAN, 60, 100), (OTHER_PLAN, 7, 0)])
    assert await stored(state) == {PLAN: (60, 100), OTHER_PLAN: (7, 0)}
    book.carried(PLAN, bytes_in=1)  # and again
    while len(state.added) < 3:
        await asyncio.sleep(0.01)
    assert (await stored(state))[PLAN] == (61, 100)


async def test_a_host_that_stops_stores_what_was_carried_before(state: Counting, book: RunBook) -> None:
    book.carried(PLAN, bytes_in=3)
    await book.close()
    assert (await stored(state))[PLAN] == (3, 0)
    await book.close()
    assert len(state.added) == 1


async def test_counts_that_cannot_be_stored_end_nothing(
    state: Counting, book: RunBook, caplog: pytest.LogCaptureFixture
) -> None:
    state.away = True
    book.carried(PLAN, bytes_in=3)
    with caplog.at_level(logging.WARNING):
        await book.close()
    assert [record.message for record in caplog.records] == ["bytes-not-counted"]
    assert book.status(PLAN).bytes_in == 3


async def test_an_event_is_read_back_once_however_many_there_were(
    state: Counting, book: RunBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = public_event({"event": "round-opened", "round": 1}, plan=PLAN, now=NOW)
    before = state.reads
    await book.record(PLAN, event)
    assert state.reads == before + 1
    monkeypatch.setattr(run_book, "_PAGE", 2)
    for _ in range(5):
        await state.append_event(PLAN, event.encode())
    await book.learn(PLAN)
    seen = []
    async for number, _ in book.watch(PLAN, 0):
        seen.append(number)
        if number == 7:
            break
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert book._folded[PLAN] == 7


async def test_runs_are_counted_by_the_state_that_their_last_event_left(book: RunBook) -> None:
    def counted() -> dict[str, float]:
        (runs,) = book.metrics.runs.collect()
        return {sample.labels["state"]: sample.value for sample in runs.samples if sample.value}

    assert counted() == {"running": 2}
    for event, expected in (
        ({"event": "round-opened", "round": 1}, {"running": 2}),
        ({"event": "run-paused"}, {"running": 1, "paused": 1}),
        ({"event": "round-opened", "round": 2}, {"running": 1, "paused": 1}),
        ({"event": "run-ended", "outcome": "finished"}, {"running": 1, "finished": 1}),
    ):
        await book.record(PLAN, public_event(event, plan=PLAN, now=NOW))
        assert counted() == expected
