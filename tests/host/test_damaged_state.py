"""A state folder that is cut short, overwritten or of another time: started on clearly, or refused clearly."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from secrets import token_bytes

import pytest

from coordinator.door import DoorKind
from coordinator.host.state_sqlite import SqliteState
from coordinator.host.tls import server_identity
from tests.host.conftest import PLAN, RunningHost
from tests.host.processes import HostProcess
from tests.host.test_blobs import MIB, wait_for
from tests.world import NOW
from trusted.errors import Reason, RunError

NAMES = ["localhost"]


def cut_in_half(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2 // 4096 * 4096)


def cut_within_a_page(database: Path) -> None:
    os.truncate(database, database.stat().st_size - 100)


def empty(database: Path) -> None:
    os.truncate(database, 0)


def lose(database: Path) -> None:
    database.unlink()


def overwrite(database: Path, offset: int, size: int) -> None:
    with database.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * size)


def garbage_at_the_start(database: Path) -> None:
    overwrite(database, 0, 64)


def garbage_within(database: Path) -> None:
    overwrite(database, 4096, 3 * 4096)


def garbage_in_the_log(database: Path) -> None:
    database.with_name("host.sqlite-wal").write_bytes(b"\xa5" * 8192)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        cut_in_half,
        cut_within_a_page,
        empty,
        lose,
        garbage_at_the_start,
        garbage_within,
        garbage_in_the_log,
    ],
)
def test_a_damaged_database_is_refused_by_number_and_no_blob_is_touched(
    start_process: Callable[..., HostProcess], damage: Callable[[Path], None]
) -> None:
    host = start_process()
    peer, dialer, data = host.door(), host.dialer(), token_bytes(1000)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    dialer.put_blob(blob, data)
    for number in range(1, 20):
        peer.control.send(DoorKind.EVENT, number, b'{"event":"attested"}')
    peer.next(DoorKind.ARRIVED)
    for _ in range(1, 20):
        peer.next(DoorKind.RECORDED)
    host.end()
    database = host.state / "host.sqlite"
    whole = database.read_bytes()
    damage(database)
    assert host.refusal().startswith("RUN-721 STORE_DAMAGED: store: ")
    (file,) = (host.state / "blobs").glob("*/*")
    assert file.read_bytes() == data
    database.with_name("host.sqlite-wal").unlink(missing_ok=True)
    database.write_bytes(whole)  # what the message says: put back what was there
    assert b"".join(host.start().dialer().get_blob(blob)) == data


@pytest.mark.slow
def test_a_log_that_a_killed_host_left_is_taken_up(start_process: Callable[..., HostProcess]) -> None:
    host = start_process()
    blob = host.door().expect(100)
    wait_for(host.dialer(), blob)
    host.end(signal.SIGKILL)
    assert (host.state / "host.sqlite-wal").stat().st_size > 0
    wait_for(host.start().dialer(), blob)


def test_a_failed_write_leaves_no_transaction_behind(tmp_path: Path) -> None:
    """Else every later write would be refused until a restart."""
    state = SqliteState(tmp_path / "host.sqlite")

    def fail(script: str) -> None:
        with state._transaction() as db:
            db.execute(script)
            raise RuntimeError

    for script in ("ROLLBACK", "SELECT 1"):  # SQLite rolls back by itself when the disk is full
        with pytest.raises(RuntimeError):
            fail(script)
    with state._transaction() as db:
        db.execute("INSERT INTO runs (plan) VALUES (?)", (PLAN,))
    assert not state._db.in_transaction


@pytest.mark.parametrize("change", [-700, -1, 0, 1, 4096])
def test_a_blobs_file_that_is_shorter_or_longer_than_the_database_says_is_completed(
    make_host: Callable[..., RunningHost], change: int
) -> None:
    host = make_host()
    data, model = token_bytes(MIB), token_bytes(MIB)
    peer, dialer = host.door(), host.dialer()
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    dialer.put_blob(blob, data)
    peer.write(b"m" * 16, 0, model, last=True)
    host.stop()
    for file in (host.config.state / "blobs").glob("*/*"):
        os.truncate(file, MIB + change)
    again = make_host()
    peer, dialer = again.door(), again.dialer()
    peer.expect(len(data), blob)
    dialer.put_blob(blob, data)
    peer.write(b"m" * 16, 0, model, last=True)
    assert b"".join(dialer.get_blob(blob)) == data
    assert b"".join(dialer.get_blob(b"m" * 16)) == model
    assert peer.read(b"m" * 16, MIB - 10, 100) == model[-10:]


def test_a_file_that_is_cut_while_it_is_served_ends_that_download_alone(host: RunningHost) -> None:
    peer, dialer, data = host.door(), host.dialer(), token_bytes(3 * MIB)
    blob, other = peer.expect(len(data)), peer.expect(len(data))
    wait_for(dialer, other)
    for name in (blob, other):
        dialer.put_blob(name, data)
    os.truncate(host.config.state / "blobs" / PLAN.hex() / blob.hex(), MIB // 2)
    with pytest.raises(RunError) as caught:
        list(dialer.get_blob(blob))
    assert caught.value.reason is Reason.BLOB_UNKNOWN
    assert b"".join(dialer.get_blob(other)) == data
    with pytest.raises((EOFError, OSError)):  # the answer would be shorter than it says: its connection ends
        peer.read(blob, 0, MIB)
    assert host.door(b"\x33" * 32).write(b"z" * 16, 0, b"still", last=True)


# certificates


@pytest.mark.parametrize("cut", ["server.key", "server.pem"])
@pytest.mark.parametrize("size", [0, 100])
def test_a_half_written_server_certificate_is_issued_anew(tmp_path: Path, cut: str, size: int) -> None:
    first = server_identity(tmp_path, NAMES, NOW)
    os.truncate(tmp_path / cut, size)
    again = server_identity(tmp_path, NAMES, NOW)
    assert again.ca_pem == first.ca_pem
    assert again != first
    assert server_identity(tmp_path, NAMES, NOW) == again


def test_a_key_of_another_certificate_is_issued_anew(tmp_path: Path) -> None:
    server_identity(tmp_path / "a", NAMES, NOW)
    server_identity(tmp_path / "b", NAMES, NOW)
    (tmp_path / "a" / "server.key").write_bytes((tmp_path / "b" / "server.key").read_bytes())
    assert (tmp_path / "a" / "server.key").read_bytes() != server_identity(tmp_path / "a", NAMES, NOW).key_pem


@pytest.mark.parametrize("cut", ["ca.key", "ca.pem"])
def test_a_damaged_ca_is_refused_and_never_replaced(tmp_path: Path, cut: str) -> None:
    """Workers pin it: a new one in its place would keep them all out without a word."""
    server_identity(tmp_path, NAMES, NOW)
    os.truncate(tmp_path / cut, 50)
    for _ in range(2):
        with pytest.raises(RunError) as caught:
            server_identity(tmp_path, NAMES, NOW)
        assert caught.value.reason is Reason.STORE_DAMAGED


def test_a_start_under_a_wrong_clock_is_made_good_by_the_next_under_a_right_one(tmp_path: Path) -> None:
    first = server_identity(tmp_path, NAMES, NOW)
    ahead = server_identity(tmp_path, NAMES, NOW + timedelta(days=5 * 365))
    assert ahead.chain_pem != first.chain_pem
    back = server_identity(tmp_path, NAMES, NOW)
    assert back.chain_pem != ahead.chain_pem
    assert server_identity(tmp_path, NAMES, NOW) == back
    assert first.ca_pem == ahead.ca_pem == back.ca_pem


@pytest.mark.parametrize(
    ("years", "reason"), [(11, Reason.CERT_EXPIRED), (-1, Reason.CERT_NOT_YET_VALID), (-40, Reason.CERT_NOT_YET_VALID)]
)
def test_a_clock_outside_the_cas_life_is_named_and_changes_nothing(tmp_path: Path, years: int, reason: Reason) -> None:
    first = server_identity(tmp_path, NAMES, NOW)
    with pytest.raises(RunError) as caught:
        server_identity(tmp_path, NAMES, NOW + timedelta(days=365 * years))
    assert caught.value.reason is reason
    assert server_identity(tmp_path, NAMES, NOW) == first
