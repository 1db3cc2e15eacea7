"""Members that lie as witnesses, over a genuine session: refused by reason, and nobody else pays.

docs/protocol.md §12 and §13 have the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.record import RecoveryKey
from softtee.chip import Chip, SoftwareRoot
from tests.evil_host.hosts import VICTIM, Host, counted, everybody_but, finished, joined
from tests.world import SimpleSite, World
from trusted.errors import Reason
from trusted.ledger.checkpoint import Checkpoint, TreeHead, origin_of
from trusted.ledger.notes import Note
from trusted.ledger.witness import MAX_EPOCH, Epoch, Pending, WitnessRecord
from trusted.wire import sha256

Lie = Callable[[dict[str, Any]], dict[str, Any]]
FAR = TreeHead(1 << 30, sha256(b"made up"))
LEASE_S = 120


class LyingHost(Host):
    """A host whose victim's worker says, instead of one type of message, what ``lies`` makes of it."""

    def __init__(self, world: World, **lies: Lie) -> None:
        super().__init__(world)
        self.lies = lies

    def say(self, connection: int, message: dict[str, Any]) -> None:
        lie = self.lies.get(message["type"].replace("-", "_"))
        if self.sites[connection].member == "site-4" and lie is not None:
            message = lie(message)
        super().say(connection, message)

    def restart(self, order: tuple[str, ...] = ("site-4", "site-1", "site-2", "site-3")) -> None:
        """The aggregator dies; another one is started, and the living workers come in ``order``."""
        self.due.clear()
        lived = {site.member: site for site in self.sites.values()}
        self.sites, self.closed = {}, {}
        self.aggregator = Aggregator(self.world.federation, self.world.identity("aggregator"), self.store)
        self.start()
        for member in order:
            self.come_back(lived[member])

    def come_back(self, old: SimpleSite) -> int:
        site = SimpleSite(self.world, old.member)
        site.participant, site.automatic = old.participant, old.automatic
        connection = 1 + max(self.sites, default=0)
        self.sites[connection] = site
        self.perform(self.aggregator.attach(connection, self.now))
        self.up(connection, site.channel.begin())
        return connection

    def liar(self) -> int:
        """The connection of the victim's newest session."""
        return max(connection for connection, site in self.sites.items() if site.member == "site-4")


def everybody_else_finishes(host: LyingHost) -> None:
    """The run comes to its end with all the others in it; the liar, if it is still there, trains as they do."""
    for connection, site in list(host.sites.items()):
        if site.error is None and connection not in host.closed:
            site.automatic = True
            if site.tasks:
                host.contribute(connection, site.tasks[-1])
    others = set(host.world.members) - {"site-4"}
    assert all(members >= others for members in counted(finished(host)))
    assert {host.sites[connection].member for connection in host.closed} <= {"site-4"}


def record(host: Host, *, key: RecoveryKey, **changes: Any) -> WitnessRecord:
    """What a worker might remember, if it were true."""
    plan = host.world.plan.digest
    epoch = host.aggregator._run._witnesses.epoch
    public = key.log_key(plan).public_key().public_bytes_raw()
    said = {"promised": epoch, "pending": Pending(Epoch(epoch.number, bytes(16)), FAR)} | changes
    return WitnessRecord(origin=said.pop("origin", origin_of(plan)), log_public_key=public, **said)


def in_its_place(host: Callable[[], Host], **changes: Any) -> Lie:
    """A ``promised`` with a record that is made up, and the key that fits it."""

    def lie(message: dict[str, Any]) -> dict[str, Any]:
        key = RecoveryKey(sha256(b"of the liar's choice"))
        told = record(host(), key=key, **changes).encode().hex()
        return message | {"record": told, "recovery_key": key.secret.hex()}

    return lie


# --- promised: a record ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"promised": None}, Reason.LEDGER_EPOCH),
        ({"promised": Epoch(1, bytes(16))}, Reason.LEDGER_EPOCH),
        ({"origin": origin_of(sha256(b"another plan"))}, Reason.LEDGER_EPOCH),
        ({"pending": Pending(Epoch(MAX_EPOCH, bytes(16)), FAR)}, Reason.LEDGER_EPOCH),
        ({"pending": None, "certified": FAR}, Reason.LEDGER_PROOF),
        ({}, Reason.LEDGER_SHRINKS),
        ({"certified": FAR}, Reason.LEDGER_SHRINKS),
    ],
    ids=[
        "promised to nobody", "to another", "of another plan", "of the future", "never cosigned", "far ahead",
        "far ahead, certified",
    ],
)  # fmt: skip
def test_a_made_up_record_costs_its_teller_alone_while_a_run_is_under_way(
    world: World, changes: dict[str, Any], reason: Reason
) -> None:
    """It comes last: the others are a quorum, and their run has begun."""
    host = LyingHost(world)
    if not changes or set(changes) == {"certified"}:  # as long as it names this very epoch it is a later checkpoint
        changes = changes | {"pending": Pending(host.aggregator._run._witnesses.epoch, FAR)}
    host.lies["promised"] = in_its_place(lambda: host, **changes)
    joined(host, automatic=False)
    assert host.closed == {VICTIM: reason}
    everybody_else_finishes(host)


@pytest.mark.parametrize("told", [None, "00" * 32], ids=["no key", "another key"])
def test_a_record_with_another_recovery_key_is_refused(world: World, told: str | None) -> None:
    host = LyingHost(world)
    joined(host, automatic=False)
    host.lies["promised"] = lambda message: message | {"recovery_key": told}
    host.restart()
    assert host.closed == {host.liar(): Reason.LEDGER_SIGNATURE}
    everybody_else_finishes(host)


@pytest.mark.parametrize(
    "told",
    ["", "00", "zz" * 8, "7b7d", "00" * 5000],
    ids=["empty", "a byte", "no hex", "no fields", "too large"],
)
def test_what_is_no_record_at_all_ends_its_tellers_session_only(world: World, told: str) -> None:
    host = LyingHost(world, promised=lambda message: message | {"record": told, "recovery_key": "00" * 32})
    joined(host, automatic=False)
    assert set(host.closed) == {VICTIM}
    assert host.closed[VICTIM] in {Reason.MALFORMED, Reason.MISSING_FIELD, Reason.TOO_LARGE, Reason.NOT_CANONICAL}
    everybody_else_finishes(host)


def test_a_log_that_one_witness_made_up_does_not_keep_a_run_from_beginning(world: World) -> None:
    """It comes first, so that its word is in the first quorum. The host is asked for that log, and then nobody is."""
    host = LyingHost(world)
    host.lies["promised"] = in_its_place(lambda: host)
    joined(host, ("site-4", "site-1", "site-2", "site-3"), automatic=False)
    host.sites[2].has_initial = True
    assert host.outcomes("round-opened") == []
    for _ in range(LEASE_S // 10 + 2):
        host.pass_time(10)
    assert [fields["reason"] for fields in host.outcomes("state-refused")] == [Reason.STATE_MISSING.code]
    host.come_back(host.sites[2])  # it holds the initial model
    back = host.sites[max(host.sites)]
    host.say(max(host.sites), back.participant.ready(has_initial=True))
    for _ in range(LEASE_S // 10 + 2):
        host.pass_time(10)
    assert len(host.outcomes("round-opened")) == 1


def test_a_log_that_one_witness_made_up_does_not_keep_a_run_from_going_on(world: World) -> None:
    """The others remember, and are a quorum: theirs is gone on from once they are there, to the round that was open."""
    host = LyingHost(world)
    joined(host, automatic=False)
    host.lies["promised"] = in_its_place(lambda: host)
    host.restart()
    assert host.outcomes("recovered") == []  # of the first three that came one lied, and two are no quorum
    host.pass_time(6)
    assert host.outcomes("recovered")[-1]["round"] == 1
    assert [fields["reason"] for fields in host.outcomes("state-refused")] == [Reason.STATE_MISSING.code]
    everybody_else_finishes(host)


def test_a_fork_that_one_witness_made_up_does_not_keep_a_run_from_going_on(world: World) -> None:
    """Of the same epoch and size as the true one, or as what the others know to be certified."""
    for certified in (False, True):
        host = LyingHost(world)
        joined(host, automatic=False)
        true = WitnessRecord.decode(host.sites[1].participant._memory._record.encode())
        assert true.pending is not None
        false = TreeHead(true.pending.head.size, sha256(b"made up"))
        older = {"pending": true.pending, "certified": TreeHead(2, sha256(b"made up"))}
        newer = {"pending": Pending(true.pending.epoch, false)}
        host.lies["promised"] = in_its_place(lambda host=host: host, **(older if certified else newer))
        host.restart()
        host.pass_time(6)
        assert len(host.outcomes("recovered")) == 1
        everybody_else_finishes(host)


def test_the_right_log_with_a_recovery_key_of_its_own_does_not_keep_a_run_from_going_on(world: World) -> None:
    """The record fits the key, and the state does not open under it: the next one's key is tried."""
    host = LyingHost(world)
    joined(host, automatic=False)
    true = host.sites[1].participant._memory._record
    host.lies["promised"] = in_its_place(lambda: host, pending=true.pending)
    host.restart()
    assert len(host.outcomes("recovered")) == 1
    everybody_else_finishes(host)


# --- ready: a higher epoch each time ---------------------------------------------------------------------------------


def higher(host: Host, by: int) -> dict[str, Any]:
    number = host.aggregator._run._witnesses.epoch.number + by
    return {"type": "ready", "has_initial": False, "promised": {"number": number, "boot": "77" * 16}}


def test_an_endless_race_of_epochs_moves_the_aggregator_once_a_lease(world: World) -> None:
    host = joined(Host(world), automatic=False)
    began = host.aggregator._run._witnesses.epoch.number
    host.say(VICTIM, higher(host, 1))
    assert host.closed == {}
    host.say(VICTIM, higher(host, 1))
    assert host.closed == {VICTIM: Reason.LEDGER_EPOCH}
    assert host.aggregator._run._witnesses.epoch.number == began + 2
    for connection in (1, 2, 3):
        host.sites[connection].automatic = True
        host.contribute(connection, host.sites[connection].tasks[-1])
    assert all(members >= everybody_but(host, VICTIM) for members in counted(finished(host)))


@pytest.mark.parametrize("by", [1025, MAX_EPOCH - 2, MAX_EPOCH - 1], ids=["a leap", "the last but one", "the last"])
def test_an_epoch_far_beyond_is_refused_and_uses_up_no_numbers(world: World, by: int) -> None:
    host = joined(Host(world), automatic=False)
    began = host.aggregator._run._witnesses.epoch
    host.say(VICTIM, higher(host, by))
    assert host.closed == {VICTIM: Reason.LEDGER_EPOCH}
    assert host.aggregator._run._witnesses.epoch == began
    for connection in (1, 2, 3):
        host.sites[connection].automatic = True
        host.contribute(connection, host.sites[connection].tasks[-1])
    assert counted(finished(host)) == [everybody_but(host, VICTIM)] * 2


def test_an_epoch_that_a_quorum_is_promised_to_is_gone_beyond_however_far(world: World) -> None:
    """After very many restarts: those who came first are refused once, and taken when enough have said the same."""
    host = joined(LyingHost(world), automatic=False)
    far = Epoch(50_000, b"\x77" * 16)
    for site in host.sites.values():
        memory = site.participant._memory
        memory._promised = far
        memory._record = None if memory._record is None else WitnessRecord.decode(memory._record.encode())
    host.restart(("site-1", "site-2"))
    assert set(host.closed.values()) == {Reason.LEDGER_EPOCH}
    lived = {site.member: site for site in host.sites.values()}
    gone = joined(Host(world), ("site-3",), automatic=False)
    gone.sites[1].participant._memory._promised = far
    host.come_back(gone.sites[1])
    assert host.aggregator._run._witnesses.epoch.number == 50_001
    for member in ("site-1", "site-2"):
        host.come_back(lived[member])
    assert len(host.aggregator._run._witnesses.promised) == 3


# --- cosigned --------------------------------------------------------------------------------------------------------


def by_another(host: Host) -> bytes:
    """Site 3's own cosignature of the newest checkpoint."""
    note = Note.parse(host.messages[VICTIM]["witness"]["note"].encode())
    checkpoint = Checkpoint.parse(note.text)
    return checkpoint.cosign("site-3", host.world.worker_keys["site-3"], time_s=int(host.now.timestamp())).signature


def for_another_member(host: Host) -> bytes:
    """Made with the victim's own key, and for site 3."""
    note = Note.parse(host.messages[VICTIM]["witness"]["note"].encode())
    checkpoint = Checkpoint.parse(note.text)
    return checkpoint.cosign("site-3", host.world.worker_keys["site-4"], time_s=int(host.now.timestamp())).signature


def with_another_bit(signature: str) -> str:
    return signature[:-1] + f"{int(signature[-1], 16) ^ 1:x}"


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (lambda host, said: said | {"signature": "00" * 72}, Reason.LEDGER_SIGNATURE),
        (lambda host, said: said | {"signature": with_another_bit(said["signature"])}, Reason.LEDGER_SIGNATURE),
        (lambda host, said: said | {"signature": by_another(host).hex()}, Reason.LEDGER_SIGNATURE),
        (lambda host, said: said | {"signature": "00" * 71}, Reason.MALFORMED),
        (lambda host, said: said | {"size": said["size"] + 1}, Reason.LEDGER_PROOF),
        (lambda host, said: said | {"size": 1 << 39}, Reason.LEDGER_PROOF),
        (lambda host, said: said | {"size": 0}, Reason.MALFORMED),
    ],
    ids=["zeros", "a bit", "another's", "short", "a size further", "far", "none"],
)
def test_a_cosignature_that_is_none_is_refused_and_certifies_nothing(
    world: World, lie: Callable[[Host, dict[str, Any]], dict[str, Any]], reason: Reason
) -> None:
    host = LyingHost(world)
    host.lies["cosigned"] = lambda message: lie(host, message)
    hold_others_back(host)
    joined(host, automatic=False)
    assert host.closed == {VICTIM: reason}
    journal = host.aggregator._run._course.require_journal()
    assert all("site-4" not in proposed.cosigned for proposed in journal._proposed.values())
    assert journal.certified.size == 0
    host.let_go()
    everybody_else_finishes(host)


def hold_others_back(host: LyingHost) -> None:
    """Until ``host.let_go`` the victim's is the only cosignature that arrives."""
    held: list[tuple[int, dict[str, Any]]] = []
    say = host.say

    def hold(connection: int, message: dict[str, Any]) -> None:
        if message["type"] == "cosigned" and host.sites[connection].member != "site-4":
            held.append((connection, message))
        else:
            say(connection, message)

    def let_go() -> None:
        host.say = say  # type: ignore[method-assign]
        for connection, message in held:
            say(connection, message)

    host.say = hold  # type: ignore[method-assign]
    host.let_go = let_go  # type: ignore[attr-defined]


def test_one_member_cannot_cosign_twice(world: World) -> None:
    """Three signatures of one member are one of three."""
    host = LyingHost(world)
    hold_others_back(host)
    joined(host, automatic=False)
    said = host.sent_up[VICTIM]
    assert said
    memory, now = host.sites[VICTIM].participant._memory, host.now
    note = Note.parse(host.messages[VICTIM]["witness"]["note"].encode())
    line = Checkpoint.parse(note.text).cosign(memory.member, memory.worker_key, time_s=int(now.timestamp()) + 1)
    for _ in range(3):
        size = Checkpoint.parse(note.text).head.size
        host.say(VICTIM, {"type": "cosigned", "size": size, "signature": line.signature.hex()})
    assert host.closed == {}
    assert host.aggregator._run._course.require_journal().certified.size == 0


# --- update: another blob's name -------------------------------------------------------------------------------------


def test_an_update_named_by_another_prefix_costs_its_own_contribution(world: World) -> None:
    host = joined(Host(world), automatic=False)
    host.contribute(VICTIM, host.sites[VICTIM].tasks[-1], prefix_sha256=sha256(b"another blob").hex())
    assert host.sites[VICTIM].receipts == [Reason.BLOB_HEADER]
    for connection in (1, 2, 3):
        host.sites[connection].automatic = True
        host.contribute(connection, host.sites[connection].tasks[-1])
    assert counted(finished(host))[0] == everybody_but(host, VICTIM)


def test_an_update_named_by_another_members_prefix_costs_its_own_contribution(world: World) -> None:
    host = joined(Host(world), automatic=False)
    said = host.contribute(1, host.sites[1].tasks[-1])
    host.contribute(VICTIM, host.sites[VICTIM].tasks[-1], prefix_sha256=said["prefix_sha256"])
    assert host.sites[VICTIM].receipts == [Reason.BLOB_HEADER]
    assert host.sites[1].receipts == [None]


# --- forgetting ------------------------------------------------------------------------------------------------------


def test_a_witness_that_says_it_forgot_costs_nobody_anything(software_root: SoftwareRoot, chip: Chip) -> None:
    world = World(software_root, chip)
    host = LyingHost(world)
    joined(host, automatic=False)
    host.lies["promised"] = lambda message: message | {"record": None, "recovery_key": None}
    host.restart()
    assert len(host.outcomes("recovered")) == 1
    everybody_else_finishes(host)


def test_one_witness_that_moves_an_aggregator_and_makes_up_a_log_does_not_stop_it(world: World) -> None:
    """After its word moved everybody to a later epoch it names a log that this aggregator lacks: the others do not."""
    host = LyingHost(world)
    joined(host, automatic=False)
    host.lies["promised"] = in_its_place(lambda: host)
    host.say(VICTIM, higher(host, 1))
    journal = host.aggregator._run._course.require_journal()
    assert not journal.is_held
    assert host.outcomes("state-refused") == []
    everybody_else_finishes(host)


def test_as_many_strangers_as_leave_no_quorum_hold_an_aggregator_back(world: World) -> None:
    """Two of four: they may be right, and then another aggregator has gone on. Nothing is proposed, and it is told."""
    host = LyingHost(world)
    joined(host, automatic=False)
    honest = host.say

    def lie(connection: int, message: dict[str, Any]) -> None:
        made_up = in_its_place(lambda: host)
        honest(connection, made_up(message) if connection in (3, 4) and message["type"] == "promised" else message)

    host.say = lie  # type: ignore[method-assign]
    proposed = host.messages[1]["witness"]
    host.say(VICTIM, higher(host, 1))
    assert host.aggregator._run._course.require_journal().is_held
    assert [fields["reason"] for fields in host.outcomes("state-refused")] == [Reason.LEDGER_FORK.code]
    assert host.messages[1]["witness"] is proposed
    host.pass_time(10)
    assert len(host.outcomes("round-opened")) == 1
