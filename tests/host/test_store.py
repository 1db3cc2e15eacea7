"""The state: what it remembers, also when it is opened again. One suite over both databases."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from coordinator.host.state import (
    Change,
    ChangeKind,
    EventSource,
    HostState,
    Origin,
    StoredBlob,
    StoredOrder,
)
from coordinator.host.state_sqlite import SqliteState
from tests.host.conftest import OTHER_PLAN, PLAN
from tests.stores import postgres
from trusted.errors import ProtocolError, Reason, RunError

ORDER = StoredOrder(b"n" * 16, PLAN, "start", b"envelope")
BLOB = StoredBlob(PLAN, b"a" * 16, Origin.WORKER, 10)
Opener = Callable[[], Awaitable[HostState]]


@pytest.fixture(params=["sqlite", "postgres"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens the state, always the same one; a second time it is another process's."""
    states: list[HostState] = []
    database = request.getfixturevalue("postgres").new_database() if request.param == "postgres" else None

    async def open_state() -> HostState:
        if database is None:
            states.append(SqliteState(tmp_path / "host.sqlite"))
        else:
            from coordinator.host.state_postgres import PostgresState

            states.append(await PostgresState.open(database))
        return states[-1]

    yield open_state
    for state in states:
        await state.close()


async def test_everything_survives_being_opened_again(opened: Opener) -> None:
    state = await opened()
    blobs = [BLOB, StoredBlob(PLAN, b"b" * 16, Origin.AGGREGATOR, None)]
    for blob in blobs:
        assert await state.add_blob(blob) == blob
    await state.honour_order(ORDER)
    await state.add_bytes(PLAN, 5, 6)
    assert await state.append_event(PLAN, "{}")
    await state.close()
    again = await opened()
    assert sorted(await again.blobs(), key=lambda blob: blob.blob) == blobs
    (run,) = await again.runs()
    assert (run.bytes_in, run.bytes_out, run.start_order, run.stop_order) == (5, 6, b"envelope", None)
    assert await again.events(PLAN, 0) == [(1, "{}")]
    with pytest.raises(RunError):
        await again.honour_order(ORDER)


async def test_event_numbers_have_no_gaps_and_belong_to_their_plan(opened: Opener) -> None:
    state = await opened()
    for plan, text in ((PLAN, "a"), (OTHER_PLAN, "b"), (PLAN, "c")):
        assert await state.append_event(plan, text)
    assert await state.events(PLAN, 0) == [(1, "a"), (2, "c")]
    assert await state.events(OTHER_PLAN, 0) == [(1, "b")]
    assert await state.events(PLAN, 1) == [(2, "c")]
    assert await state.events(PLAN, 0, limit=1) == [(1, "a")]
    assert await state.events(PLAN, 2**64 - 1) == []


async def test_an_event_that_is_told_twice_is_stored_once_and_takes_one_number(opened: Opener) -> None:
    state = await opened()
    first, other = EventSource(b"t" * 16, 1), EventSource(b"u" * 16, 1)
    assert await state.append_event(PLAN, "a", first)
    assert not await state.append_event(PLAN, "a", first)
    assert await state.append_event(PLAN, "b", other)
    assert await state.append_event(PLAN, "c", EventSource(b"t" * 16, 2))
    assert await state.append_event(OTHER_PLAN, "d", first)
    assert await state.append_event(PLAN, "e")
    assert await state.append_event(PLAN, "e")
    assert await state.events(PLAN, 0) == [(1, "a"), (2, "b"), (3, "c"), (4, "e"), (5, "e")]


@pytest.mark.parametrize("sequence", [0, -1, 1 << 63, (1 << 64) - 1])
def test_an_event_number_that_no_column_holds_is_refused(sequence: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        EventSource(b"t" * 16, sequence)
    assert caught.value.reason is Reason.TOO_LARGE


async def test_a_replayed_order_changes_nothing(opened: Opener) -> None:
    state = await opened()
    await state.honour_order(ORDER)
    with pytest.raises(RunError) as caught:
        await state.honour_order(StoredOrder(ORDER.nonce, OTHER_PLAN, "stop", b"other"))
    assert caught.value.reason is Reason.ORDER_REPLAYED
    assert [run.plan for run in await state.runs()] == [PLAN]


async def test_orders_of_both_kinds_stand_and_the_newest_of_a_kind_counts(opened: Opener) -> None:
    state = await opened()
    for number, action in enumerate(("start", "stop", "start")):
        await state.honour_order(StoredOrder(bytes([number]) * 16, PLAN, action, b"%d" % number))
    (run,) = await state.runs()
    assert (run.start_order, run.stop_order) == (b"2", b"1")


async def test_the_newest_of_pause_and_resume_stands_beside_the_others(opened: Opener) -> None:
    state = await opened()
    for number, action in enumerate(("start", "pause", "resume", "pause")):
        await state.honour_order(StoredOrder(bytes([number]) * 16, PLAN, action, b"%d" % number))
        (run,) = await state.runs()
        assert run.hold_action == (None if action == "start" else action)
    await state.close()
    (run,) = await (await opened()).runs()
    assert (run.start_order, run.stop_order, run.hold_order, run.hold_action) == (b"0", None, b"3", "pause")


async def test_a_name_stands_for_the_blob_that_came_first(opened: Opener) -> None:
    state = await opened()
    assert await state.blob(PLAN, BLOB.blob) is None
    await state.add_blob(BLOB)
    for other in (
        StoredBlob(PLAN, BLOB.blob, Origin.WORKER, 11),
        StoredBlob(PLAN, BLOB.blob, Origin.AGGREGATOR, None),
    ):
        assert await state.add_blob(other) == BLOB
    assert await state.blob(PLAN, BLOB.blob) == BLOB
    assert await state.blob(OTHER_PLAN, BLOB.blob) is None


async def test_a_forgotten_blob_is_not_brought_back_by_its_end(opened: Opener) -> None:
    state = await opened()
    await state.add_blob(BLOB)
    done = StoredBlob(PLAN, BLOB.blob, Origin.WORKER, 10, shared=True)
    assert await state.finish_blob(done)
    assert await state.blob(PLAN, BLOB.blob) == done
    assert await state.delete_blob(PLAN, BLOB.blob)
    assert not await state.delete_blob(PLAN, BLOB.blob)
    assert not await state.finish_blob(done)
    assert await state.blobs() == []


async def test_what_is_deleted_does_not_stay_in_the_file(tmp_path: Path) -> None:
    path, name = tmp_path / "host.sqlite", b"capability-12345"
    state = SqliteState(path)
    await state.add_blob(StoredBlob(PLAN, name, Origin.WORKER, 1))
    await state.delete_blob(PLAN, name)
    await state.close()
    assert name not in path.read_bytes()


async def test_a_state_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "host.sqlite"
    await SqliteState(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RunError) as caught:
        SqliteState(path)
    assert caught.value.reason is Reason.UNSUPPORTED_VERSION


async def test_a_state_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "host.sqlite"
    from coordinator.host.state_sqlite import _MIGRATIONS

    with sqlite3.connect(path) as db:
        db.executescript(_MIGRATIONS[0])
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO blobs VALUES (?, ?, 'worker', 10)", (PLAN, BLOB.blob))
        db.execute("INSERT INTO events VALUES (?, 1, 'a')", (PLAN,))
    db.close()
    state = SqliteState(path)
    assert await state.blobs() == [BLOB]
    assert await state.append_event(PLAN, "b", EventSource(b"t" * 16, 1))
    assert await state.events(PLAN, 0) == [(1, "a"), (2, "b")]
    await state.close()


async def test_a_state_without_pauses_is_brought_up_to_date_and_its_orders_stand(tmp_path: Path) -> None:
    path = tmp_path / "host.sqlite"
    from coordinator.host.state_sqlite import _MIGRATIONS

    with sqlite3.connect(path) as db:
        for script in _MIGRATIONS[:3]:
            db.executescript(script)
        db.execute("PRAGMA user_version = 3")
        db.execute("INSERT INTO orders VALUES (?, ?, 'start', ?)", (ORDER.nonce, PLAN, ORDER.envelope))
        db.execute("INSERT INTO runs (plan, start_nonce) VALUES (?, ?)", (PLAN, ORDER.nonce))
    db.close()
    state = SqliteState(path)
    await state.honour_order(StoredOrder(b"p" * 16, PLAN, "pause", b"paused"))
    (run,) = await state.runs()
    assert (run.start_order, run.hold_order, run.hold_action) == (ORDER.envelope, b"paused", "pause")
    await state.close()


# replicas: PostgreSQL alone


@pytest.fixture
async def replicas(postgres: postgres.Server) -> AsyncIterator[tuple[HostState, HostState]]:
    """Two processes' view of one database; both came at once, and one of them made the tables."""
    from coordinator.host.state_postgres import PostgresState

    database = postgres.new_database()
    first, second = await asyncio.gather(PostgresState.open(database), PostgresState.open(database))
    yield first, second
    await first.close()
    await second.close()


async def next_of(changes: AsyncIterator[Change]) -> Change:
    return await asyncio.wait_for(anext(changes), 10)


async def test_events_of_two_replicas_at_once_are_numbered_without_gaps(replicas: tuple[HostState, HostState]) -> None:
    told = [(state, f"{number} {index}") for number in range(50) for index, state in enumerate(replicas)]
    assert all(await asyncio.gather(*(state.append_event(PLAN, text) for state, text in told)))
    events = await replicas[0].events(PLAN, 0)
    assert [number for number, _ in events] == list(range(1, 101))
    assert {text for _, text in events} == {text for _, text in told}
    assert await replicas[1].events(PLAN, 0) == events


async def test_one_event_told_to_both_replicas_at_once_is_stored_once(replicas: tuple[HostState, HostState]) -> None:
    for sequence in range(1, 21):
        source = EventSource(b"t" * 16, sequence)
        stored = await asyncio.gather(*(state.append_event(PLAN, str(sequence), source) for state in replicas))
        assert sorted(stored) == [False, True]
    assert await replicas[0].events(PLAN, 0) == [(number, str(number)) for number in range(1, 21)]


async def test_an_order_given_to_both_replicas_at_once_is_honoured_once(replicas: tuple[HostState, HostState]) -> None:
    outcomes = await asyncio.gather(*(state.honour_order(ORDER) for state in replicas), return_exceptions=True)
    (refused,) = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(refused, RunError)
    assert refused.reason is Reason.ORDER_REPLAYED


async def test_a_replica_hears_what_the_other_writes_and_not_itself(replicas: tuple[HostState, HostState]) -> None:
    here, there = replicas
    changes = here.changes()
    assert await next_of(changes) == Change(ChangeKind.MISSED)
    await here.append_event(PLAN, "own")
    await there.append_event(PLAN, "theirs")
    assert await next_of(changes) == Change(ChangeKind.EVENT, PLAN)
    await there.honour_order(ORDER)
    assert await next_of(changes) == Change(ChangeKind.ORDER, PLAN)
    await there.add_blob(BLOB)
    await there.finish_blob(BLOB)  # here nothing is to be heard: no other replica can have it
    await there.finish_blob(StoredBlob(PLAN, BLOB.blob, Origin.WORKER, 10, shared=True))
    assert await next_of(changes) == Change(ChangeKind.SHARED, PLAN, BLOB.blob)
    await there.delete_blob(PLAN, BLOB.blob)
    await there.delete_blob(PLAN, BLOB.blob)
    await there.append_event(OTHER_PLAN, "theirs")
    assert await next_of(changes) == Change(ChangeKind.DISCARDED, PLAN, BLOB.blob)
    assert await next_of(changes) == Change(ChangeKind.EVENT, OTHER_PLAN)


async def test_a_database_that_restarts_is_found_again_and_what_was_missed_is_said(postgres: postgres.Server) -> None:
    from coordinator.host.state_postgres import PostgresState

    state = await PostgresState.open(postgres.new_database())
    changes = state.changes()
    assert await next_of(changes) == Change(ChangeKind.MISSED)
    postgres.stop()
    with pytest.raises(RunError) as caught:
        await state.append_event(PLAN, "lost")
    assert caught.value.reason is Reason.STORE_AWAY
    postgres.start()
    assert await next_of(changes) == Change(ChangeKind.MISSED)
    assert await state.append_event(PLAN, "kept")
    assert await state.events(PLAN, 0) == [(1, "kept")]
    await state.close()


async def test_tables_without_pauses_are_brought_up_to_date_and_their_orders_stand(postgres: postgres.Server) -> None:
    from coordinator.host.state_postgres import _MIGRATIONS, PostgresState

    database = postgres.new_database()
    name = f"test_{postgres.databases}"
    nonce, plan, envelope = (f"'\\x{value.hex()}'" for value in (ORDER.nonce, PLAN, ORDER.envelope))
    for script in (
        *(statement for statement in _MIGRATIONS[0].split(";") if statement.strip()),
        "CREATE TABLE cloister_schema (version BIGINT NOT NULL)",
        "INSERT INTO cloister_schema VALUES (1)",
        f"INSERT INTO orders VALUES ({nonce}, {plan}, 'start', {envelope})",
        f"INSERT INTO runs (plan, start_nonce) VALUES ({plan}, {nonce})",
    ):
        postgres.sql(script, name)
    state = await PostgresState.open(database)
    await state.honour_order(StoredOrder(b"p" * 16, PLAN, "pause", b"paused"))
    (run,) = await state.runs()
    assert (run.start_order, run.hold_order, run.hold_action) == (ORDER.envelope, b"paused", "pause")
    await state.close()


async def test_tables_of_a_newer_version_are_left_alone(postgres: postgres.Server) -> None:
    from coordinator.host.state_postgres import PostgresState

    database = postgres.new_database()
    await (await PostgresState.open(database)).close()
    postgres.sql("INSERT INTO cloister_schema VALUES (99)", f"test_{postgres.databases}")
    with pytest.raises(RunError) as caught:
        await PostgresState.open(database)
    assert caught.value.reason is Reason.UNSUPPORTED_VERSION
