"""What a broker's disk holds: no secret in the clear, no count that goes up, no log line that goes (docs/keys.md)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest

from broker.holdings import StoreHoldings
from broker.records import Event, KeyKind
from broker.store import KeyStore
from tests.keys.holdings import KEY_ID, MEMBER, exchanged, grant_of, requester, signed_grant
from tests.world import NOW, envelope
from trusted.blob import ContentKey
from trusted.documents.grant import WITHDRAWAL_TYPE, Withdrawal, Withdrawn, verify_grant, verify_withdrawal
from trusted.documents.schema import write_time
from trusted.errors import KeyReleaseError, ProtocolError, Reason
from trusted.hpke import SealingKey
from trusted.keys.broker import KeyExchange

KEY = ContentKey(b"\x42" * 32)


def granted(store, world, content: ContentKey = KEY, **changes):
    """``content`` in the store, and a grant of it."""
    store.add(KEY_ID, content, KeyKind.DATASET, "visits.csv", NOW)
    grant = verify_grant(signed_grant(world, grant_of(world, content, **changes)), world.charter)
    store.add_grant(grant, world.charter, world.plan, NOW)
    return grant


def withdrawal(world, what: Withdrawn, subject: bytes, *, by: str = MEMBER):
    document = Withdrawal(by, world.charter.digest, what, subject, NOW)
    return verify_withdrawal(envelope(document, WITHDRAWAL_TYPE, [world.signing[by]]), world.charter)


def reason_of(action, *arguments) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        action(*arguments)
    return caught.value.reason


def release(store, store_key, world):
    return exchanged(StoreHoldings(store, store_key), requester(world))


def test_a_key_goes_the_whole_way_from_the_disk_to_a_worker(store, store_key, world):
    grant = granted(store, world)
    assert release(store, store_key, world).key == KEY
    (kept,) = store.grants()
    assert (kept.digest, kept.remaining, kept.revoked) == (grant.digest, 1, False)
    last = store.log()[-1]
    assert (last.event, last.key, last.grant) == (Event.RELEASED, KEY_ID, grant.digest)
    assert last.result is not None
    assert len(last.result) == 32


def test_no_more_leaves_than_was_granted_even_after_a_restart(store, store_key, world):
    granted(store, world, releases=1)
    release(store, store_key, world)
    with KeyStore.open(store.folder) as again:
        assert reason_of(release, again, store_key, world) is Reason.GRANT_EXHAUSTED


def test_a_grant_that_is_given_twice_counts_once(store, store_key, world):
    grant = granted(store, world, releases=1)
    release(store, store_key, world)
    store.add_grant(grant, world.charter, world.plan, NOW)
    assert reason_of(release, store, store_key, world) is Reason.GRANT_EXHAUSTED


def test_no_content_key_lies_on_the_disk_in_the_clear(store, world):
    granted(store, world)
    files = [path for path in store.folder.rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        assert KEY.secret not in path.read_bytes()
        assert KEY.secret.hex().encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


def test_another_stores_key_unlocks_nothing(store):
    assert reason_of(StoreHoldings, store, SealingKey.generate()) is Reason.KEY_STORE


def test_a_key_file_moved_to_another_id_does_not_open(store, store_key, world):
    granted(store, world)
    other = b"\x77" * 32
    store.add(other, ContentKey.generate(), KeyKind.DATASET, "other", NOW)
    folder = store.folder / "keys"
    (folder / f"{other.hex()}.sealed").replace(folder / f"{KEY_ID.hex()}.sealed")
    assert reason_of(release, store, store_key, world) is Reason.KEY_STORE
    assert store.grants()[0].remaining == 2


def test_a_key_that_was_exchanged_on_the_disk_is_not_handed_out(store, store_key, world):
    """Whoever can write the folder can seal another key to it; the grant names the one that was meant."""
    granted(store, world)
    store.files.put(KEY_ID, ContentKey.generate(), store_key.public)
    assert reason_of(release, store, store_key, world) is Reason.KEY_COMMITMENT


def test_a_revoked_grant_ends_at_once_for_a_broker_that_is_serving(store, store_key, world):
    """Another process revokes between the challenge and the request."""
    grant = granted(store, world)
    asking, serving = requester(world), KeyExchange(StoreHoldings(store, store_key), NOW)
    request = asking.receive(serving.receive(asking.begin(), NOW), NOW)
    with KeyStore.open(store.folder) as console:
        console.withdraw(withdrawal(world, Withdrawn.GRANT, grant.digest), NOW)
    assert reason_of(serving.receive, request, NOW) is Reason.GRANT_REVOKED
    assert reason_of(release, store, store_key, world) is Reason.GRANT_REVOKED
    assert store.grants()[0].remaining == 2


def test_a_retired_key_is_gone_with_all_that_was_granted_of_it(store, store_key, world):
    granted(store, world)
    store.withdraw(withdrawal(world, Withdrawn.KEY, KEY_ID), NOW)
    assert not list((store.folder / "keys").iterdir())
    assert store.grants()[0].revoked
    assert reason_of(release, store, store_key, world) is Reason.KEY_RETIRED
    assert reason_of(granted, store, world) is Reason.KEY_RETIRED
    line = store.log()[-1]
    assert (line.event, line.key) == (Event.RETIRED, KEY_ID)
    assert verify_withdrawal(line.envelope, world.charter).document.subject == KEY_ID


def test_a_retired_key_whose_file_a_crash_left_is_destroyed_at_the_next_start(store, world, monkeypatch):
    granted(store, world)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    ending = withdrawal(world, Withdrawn.KEY, KEY_ID)
    with monkeypatch.context() as patched:
        patched.setattr(type(store.files), "destroy", crash)
        with pytest.raises(KeyboardInterrupt):
            store.withdraw(ending, NOW)
    assert list((store.folder / "keys").iterdir())
    KeyStore.open(store.folder).close()
    assert not list((store.folder / "keys").iterdir())


def test_a_retired_keys_file_is_overwritten_before_it_goes(store, world):
    """A second name for the same file shows what became of its bytes."""
    granted(store, world)
    (path,) = (store.folder / "keys").iterdir()
    before = path.read_bytes()
    os.link(path, store.folder / "second-name")
    store.withdraw(withdrawal(world, Withdrawn.KEY, KEY_ID), NOW)
    after = (store.folder / "second-name").read_bytes()
    assert len(after) == len(before)
    assert sum(left == right for left, right in zip(before, after, strict=True)) < len(before) // 16


@pytest.mark.parametrize(
    ("what", "subject", "by", "reason"),
    [
        (Withdrawn.GRANT, b"\x00" * 32, MEMBER, Reason.NOT_GRANTED),
        (Withdrawn.KEY, b"\x00" * 32, MEMBER, Reason.KEY_UNKNOWN),
        (Withdrawn.KEY, KEY_ID, "site-2", Reason.UNKNOWN_MEMBER),
    ],
)
def test_only_the_member_takes_back_and_only_what_is_there(store, world, what, subject, by, reason):
    granted(store, world)
    assert reason_of(store.withdraw, withdrawal(world, what, subject, by=by), NOW) is reason
    assert not store.grants()[0].revoked


def test_another_members_grant_is_not_taken(store, world):
    store.add(KEY_ID, KEY, KeyKind.DATASET, "visits.csv", NOW)
    grant = verify_grant(signed_grant(world, grant_of(world, KEY, member="site-2")), world.charter)
    assert reason_of(store.add_grant, grant, world.charter, world.plan, NOW) is Reason.UNKNOWN_MEMBER


def test_a_grant_of_another_key_under_the_same_id_is_not_taken(store, world):
    store.add(KEY_ID, ContentKey.generate(), KeyKind.DATASET, "visits.csv", NOW)
    assert reason_of(granted, store, world) is Reason.KEY_COMMITMENT
    grant = verify_grant(signed_grant(world, grant_of(world, KEY)), world.charter)
    assert reason_of(store.add_grant, grant, world.charter, world.plan, NOW) is Reason.KEY_COMMITMENT


def test_a_grant_comes_with_its_own_plan(store, world):
    store.add(KEY_ID, KEY, KeyKind.DATASET, "visits.csv", NOW)
    grant = verify_grant(signed_grant(world, grant_of(world, KEY)), world.charter)
    other = world.make_plan(name="another plan")
    assert reason_of(store.add_grant, grant, world.charter, other, NOW) is Reason.DOCUMENT_DIGEST


def test_the_same_key_may_be_added_again(store, world):
    granted(store, world)
    store.add(KEY_ID, KEY, KeyKind.DATASET, "visits.csv", NOW)
    assert len(store.kept_keys()) == 1


def test_the_log_is_neither_changed_nor_cut(store, store_key, world):
    granted(store, world)
    release(store, store_key, world)
    with sqlite3.connect(store.folder / "store.db") as db:
        for statement in ("UPDATE log SET at = ''", "DELETE FROM log"):
            with pytest.raises(sqlite3.IntegrityError):
                db.execute(statement)


def test_strangers_cannot_fill_the_disk_with_refusals(store, world, monkeypatch):
    monkeypatch.setattr("broker.store._MAX_REFUSALS", 5)
    granted(store, world)
    for number in range(8):
        store.note_refusal(KEY_ID, Reason.MEASUREMENT, NOW + timedelta(seconds=number))
    entries = store.log()
    assert [entry.event for entry in entries if entry.event is not Event.REFUSED] == [Event.ADDED, Event.GRANTED]
    kept = [entry.at for entry in entries if entry.event is Event.REFUSED]
    assert kept == [write_time(NOW + timedelta(seconds=number)) for number in range(3, 8)]


def test_a_store_that_others_may_read_is_not_opened(store):
    (store.folder / "store.db").chmod(0o640)
    assert reason_of(KeyStore.open, store.folder) is Reason.KEY_STORE


def test_a_store_of_another_version_is_not_opened(store):
    with sqlite3.connect(store.folder / "store.db") as db:
        db.execute("PRAGMA user_version = 2")
    assert reason_of(KeyStore.open, store.folder) is Reason.KEY_STORE


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100])
def test_a_store_that_is_no_store_is_not_opened(store, content):
    (store.folder / "store.db").write_bytes(content)
    assert reason_of(KeyStore.open, store.folder) is Reason.KEY_STORE


def test_a_folder_without_a_store_is_no_store(tmp_path):
    assert reason_of(KeyStore.open, tmp_path) is Reason.KEY_STORE


def test_a_store_is_made_once(store, store_key):
    with pytest.raises(FileExistsError):
        KeyStore.create(store.folder, member=MEMBER, public=store_key.public)


_DIES = """
    import os, signal, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from broker.store import KeyStore

    def count(folder, digest, where):
        store = KeyStore.open(Path(folder))
        connection = store.database._db

        class Dying:
            # Dies, as by SIGKILL, right before or right after the statement that was asked for.
            def __getattr__(self, name):
                return getattr(connection, name)

            def execute(self, statement, *values):
                moment, _, begins = where.partition(":")
                hit = statement.startswith(begins)
                if hit and moment == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                result = connection.execute(statement, *values)
                if hit:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

        store.database._db = Dying()
        store.count_release(bytes.fromhex(digest), b"r" * 32, b"m" * 48, datetime.now(UTC))

    for folder, digest, where in zip(*[iter(sys.argv[1:])] * 3):
        child = os.fork()
        if not child:
            count(folder, digest, where)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, where
"""
_DEATHS = {
    "before:UPDATE grants": 0,
    "after:UPDATE grants": 0,
    "after:INSERT INTO log": 0,
    "before:COMMIT": 0,
    "after:COMMIT": 1,
}


def test_a_broker_that_dies_at_any_moment_gives_no_count_back(tmp_path, store_key, world):
    """Killed between the count and the answer: what was counted stays counted, and the log agrees with the count."""
    deaths = []
    for place, where in enumerate(_DEATHS):
        with KeyStore.create(tmp_path / str(place), member=MEMBER, public=store_key.public) as made:
            deaths += [str(made.folder), granted(made, world, releases=2).digest.hex(), where]
    command = [sys.executable, "-c", textwrap.dedent(_DIES), *deaths]
    died = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert died.returncode == 0, died.stderr
    for place, (where, counted) in enumerate(_DEATHS.items()):
        with KeyStore.open(tmp_path / str(place)) as again:
            released = [entry for entry in again.log() if entry.event is Event.RELEASED]
            assert (again.grants()[0].remaining, len(released)) == (2 - counted, counted), where
            for _ in range(2 - counted):
                release(again, store_key, world)
            assert reason_of(release, again, store_key, world) is Reason.GRANT_EXHAUSTED


def test_the_answer_is_sealed_only_after_the_count_is_on_the_disk(store, store_key, world, monkeypatch):
    granted(store, world)
    seen: list[int] = []

    def seal(*arguments: object) -> bytes:
        with KeyStore.open(store.folder) as other:
            seen.append(other.grants()[0].remaining)
        raise KeyReleaseError(Reason.KEY_STORE, "the machine stops here")

    monkeypatch.setattr("trusted.keys.broker.hpke.seal", seal)
    assert reason_of(release, store, store_key, world) is Reason.KEY_STORE
    assert seen == [1]
