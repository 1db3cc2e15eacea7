"""The store: what it remembers, also when it is opened again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from coordinator.host.store import Origin, Store, StoredBlob, StoredOrder
from tests.host.conftest import OTHER_PLAN, PLAN
from trusted.errors import Reason, RunError

ORDER = StoredOrder(b"n" * 16, PLAN, "start", b"envelope")


def test_everything_survives_being_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "host.sqlite"
    store = Store(path)
    blobs = [StoredBlob(PLAN, b"a" * 16, Origin.WORKER, 10), StoredBlob(PLAN, b"b" * 16, Origin.AGGREGATOR, None)]
    for blob in blobs:
        store.put_blob(blob)
    store.honour_order(ORDER)
    store.add_bytes(PLAN, 5, 6)
    store.append_event(PLAN, "{}")
    store.close()
    again = Store(path)
    assert again.blobs() == blobs
    (run,) = again.runs()
    assert (run.bytes_in, run.bytes_out, run.start_order, run.stop_order) == (5, 6, b"envelope", None)
    assert again.events(PLAN, 0) == [(1, "{}")]
    with pytest.raises(RunError):
        again.honour_order(ORDER)


def test_event_numbers_have_no_gaps_and_belong_to_their_plan(tmp_path: Path) -> None:
    store = Store(tmp_path / "host.sqlite")
    assert [store.append_event(PLAN, "a"), store.append_event(OTHER_PLAN, "b"), store.append_event(PLAN, "c")] == [
        1,
        1,
        2,
    ]
    assert store.events(PLAN, 1) == [(2, "c")]
    assert store.events(PLAN, 0, limit=1) == [(1, "a")]
    assert store.events(PLAN, 2**64 - 1) == []


def test_a_replayed_order_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "host.sqlite")
    store.honour_order(ORDER)
    with pytest.raises(RunError) as caught:
        store.honour_order(StoredOrder(ORDER.nonce, OTHER_PLAN, "stop", b"other"))
    assert caught.value.reason is Reason.ORDER_REPLAYED
    assert [run.plan for run in store.runs()] == [PLAN]


def test_what_is_deleted_does_not_stay_in_the_file(tmp_path: Path) -> None:
    path, name = tmp_path / "host.sqlite", b"capability-12345"
    store = Store(path)
    store.put_blob(StoredBlob(PLAN, name, Origin.WORKER, 1))
    store.delete_blob(PLAN, name)
    store.close()
    assert name not in path.read_bytes()


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "host.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RunError) as caught:
        Store(path)
    assert caught.value.reason is Reason.UNSUPPORTED_VERSION
