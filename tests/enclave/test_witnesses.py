"""Who has promised itself to an aggregator, what moves it to a later epoch, and from what a quorum lets it go on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coordinator.enclave.record import RecoveryKey
from coordinator.enclave.witnesses import Witnesses, refusal_event
from tests.world import NOW, Net, SimpleSite, World
from trusted.channel.aggregator import AdmittedPeer
from trusted.errors import LedgerError, ProtocolError, Reason
from trusted.ledger.checkpoint import EMPTY, Diverged, TreeHead, origin_of
from trusted.ledger.witness import MAX_EPOCH, Epoch, Pending, WitnessRecord
from trusted.wire import Fields, sha256

ELSEWHERE = b"\x77" * 16
KEY = RecoveryKey(sha256(b"a run"))
HEAD, NEWER = TreeHead(7, sha256(b"seven")), TreeHead(9, sha256(b"nine"))


class Admitting(Net):
    """Members are admitted by their real sessions; what they say then is said by the test."""

    def say(self, connection: int, message: dict[str, Any]) -> None:
        if message["type"] == "ready":  # the first record proves the keys, and says nothing more here
            message = {"type": "progress", "round": 1, "stage": "train", "percent": 1}
        super().say(connection, message)


@pytest.fixture
def net(world) -> Admitting:
    net = Admitting(world)
    for member in world.members:
        net.join(SimpleSite(world, member))
    assert set(net.aggregator._admissions.members) == set(world.members)
    return net


@pytest.fixture
def begun() -> list[int]:
    return []


@pytest.fixture
def witnesses(net, begun) -> Witnesses:
    return Witnesses(net.aggregator._admissions, lambda now: begun.append(1))


def asked(witnesses: Witnesses) -> int:
    """How many members were sent something since this was asked last."""
    return len(witnesses.admissions.take_effects())


def peer(witnesses: Witnesses, member: str) -> AdmittedPeer:
    found = witnesses.admissions.peer(member)
    assert found is not None
    return found


def record(world: World, witnesses: Witnesses, head: TreeHead = HEAD, **changes: Any) -> WitnessRecord:
    public = KEY.log_key(world.plan.digest).public_key().public_bytes_raw()
    said = {"promised": witnesses.epoch, "pending": Pending(Epoch(witnesses.epoch.number, ELSEWHERE), head)} | changes
    return WitnessRecord(origin_of(world.plan.digest), public, **said)


def promised(
    witnesses: Witnesses,
    member: str,
    told: WitnessRecord | None = None,
    key: RecoveryKey | None = None,
    number: int | None = None,
) -> bool:
    message = {
        "number": witnesses.epoch.number if number is None else number,
        "record": None if told is None else told.encode().hex(),
        "recovery_key": None if key is None else key.secret.hex(),
    }
    with Fields(message, "promised") as fields:
        return witnesses.take(peer(witnesses, member), fields)


def test_a_member_is_asked_for_a_promise_when_it_greets(witnesses):
    witnesses.greet("site-1", None, NOW)
    assert asked(witnesses) == 1
    assert witnesses.epoch.number == 1
    assert witnesses.missing == 3


@pytest.mark.parametrize("members", [1, 2, 3, 4, 5, 6, 7])
def test_a_quorum_is_more_than_half_of_the_plans_members(software_root, chip, members):
    world = World(software_root, chip, members=tuple(f"site-{number}" for number in range(1, max(members, 2) + 1)))
    witnesses = Witnesses(Net(world).aggregator._admissions, lambda now: None)
    assert 2 * witnesses.quorum.needed > len(world.members)
    assert 2 * (witnesses.quorum.needed - 1) <= len(world.members)


def test_a_promise_counts_while_its_session_lasts(net, witnesses):
    for member in ("site-1", "site-2", "site-3"):
        assert promised(witnesses, member)
    assert witnesses.missing == 0
    net.perform(net.aggregator.detach(3, net.now))
    assert set(witnesses.promised) == {"site-1", "site-2"}
    net.join(SimpleSite(net.world, "site-3"))  # another session: it has to promise anew
    assert witnesses.missing == 1


def test_a_promise_to_an_epoch_that_is_over_does_not_count(witnesses):
    witnesses.greet("site-1", Epoch(5, ELSEWHERE), NOW)
    assert not promised(witnesses, "site-2", number=1)
    assert promised(witnesses, "site-2", number=6)
    assert set(witnesses.promised) == {"site-2"}


@pytest.mark.parametrize(
    ("greeting", "number"),
    [
        (None, 1),
        (Epoch(1, ELSEWHERE), 2),
        (Epoch(8, ELSEWHERE), 9),
        (Epoch(1025, ELSEWHERE), 1026),
        (Epoch(1026, ELSEWHERE), None),
        (Epoch(MAX_EPOCH - 1, ELSEWHERE), None),
        (Epoch(MAX_EPOCH, ELSEWHERE), None),
    ],
    ids=["nobody", "the same number", "higher", "as far as it may", "too far", "the last but one", "the last"],
)
def test_a_worker_that_is_promised_to_another_moves_this_aggregator_beyond_it(witnesses, begun, greeting, number):
    if number is None:
        with pytest.raises(LedgerError) as caught:
            witnesses.greet("site-1", greeting, NOW)
        assert caught.value.reason is Reason.LEDGER_EPOCH
    else:
        witnesses.greet("site-1", greeting, NOW)
    assert witnesses.epoch.number == (number or 1)
    assert len(begun) == (witnesses.epoch.number > 1)


def test_a_worker_that_is_promised_to_this_very_aggregator_or_a_lower_one_moves_nothing(witnesses, begun):
    witnesses.greet("site-1", Epoch(5, ELSEWHERE), NOW)
    for greeting in (witnesses.epoch, Epoch(5, ELSEWHERE), Epoch(1, witnesses.epoch.boot)):
        witnesses.greet("site-2", greeting, NOW)
    assert witnesses.epoch.number == 6
    assert begun == [1]


def test_a_later_epoch_asks_everybody_anew_and_forgets_what_was_promised(witnesses):
    for member in ("site-1", "site-2", "site-3"):
        promised(witnesses, member)
    asked(witnesses)
    witnesses.greet("site-4", Epoch(3, ELSEWHERE), NOW)
    assert asked(witnesses) == 4  # everybody
    assert witnesses.missing == 3


def test_one_member_moves_it_once_a_lease_and_others_all_the_same(witnesses):
    lease = timedelta(seconds=120)
    witnesses.greet("site-1", Epoch(1, ELSEWHERE), NOW)
    with pytest.raises(LedgerError) as caught:
        witnesses.greet("site-1", Epoch(2, ELSEWHERE), NOW + lease - timedelta(seconds=1))
    assert caught.value.reason is Reason.LEDGER_EPOCH
    witnesses.greet("site-2", Epoch(2, ELSEWHERE), NOW)
    witnesses.greet("site-1", Epoch(3, ELSEWHERE), NOW + lease)
    assert witnesses.epoch.number == 4


def test_far_away_is_where_a_quorum_says_it_is(witnesses):
    for member in ("site-1", "site-2"):
        with pytest.raises(LedgerError):
            witnesses.greet(member, Epoch(5000, ELSEWHERE), NOW)
    witnesses.greet("site-3", Epoch(5000, ELSEWHERE), NOW)
    assert witnesses.epoch.number == 5001


def test_a_quorum_that_knows_no_log_lets_a_run_begin(witnesses):
    for member in ("site-1", "site-2", "site-3"):
        promised(witnesses, member)
    memories = witnesses.memories()
    assert (memories.choices, memories.blank) == ((), True)


def test_without_a_quorum_nothing_is_remembered(witnesses):
    promised(witnesses, "site-1")
    with pytest.raises(LedgerError) as caught:
        witnesses.memories()
    assert caught.value.reason is Reason.LEDGER_QUORUM


def test_the_newest_log_that_anybody_cosigned_is_gone_on_from(world, witnesses):
    promised(witnesses, "site-1", record(world, witnesses), KEY)
    promised(witnesses, "site-2", record(world, witnesses, NEWER), KEY)
    promised(witnesses, "site-3")
    memories = witnesses.memories()
    assert [(choice.head, choice.key, choice.is_firm) for choice in memories.choices] == [(NEWER, KEY, False)]
    assert not memories.blank
    promised(witnesses, "site-4", record(world, witnesses), KEY)
    promised(witnesses, "site-3", record(world, witnesses), KEY)
    firm = [(choice.head, choice.is_firm) for choice in witnesses.memories().choices]
    assert firm == [(NEWER, True), (HEAD, True)]


def test_of_several_recovery_keys_the_one_that_most_say_is_tried_first(world, witnesses):
    other = RecoveryKey(sha256(b"a liar's"))
    public = other.log_key(world.plan.digest).public_key().public_bytes_raw()
    true = record(world, witnesses)
    lie = WitnessRecord(true.origin, public, true.promised, true.certified, true.pending)
    promised(witnesses, "site-1", lie, other)
    for member in ("site-2", "site-3", "site-4"):
        promised(witnesses, member, true, KEY)
    assert [choice.key for choice in witnesses.memories().choices] == [KEY, other]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"promised": None}, Reason.LEDGER_EPOCH),
        ({"promised": Epoch(1, ELSEWHERE)}, Reason.LEDGER_EPOCH),
        ({"pending": Pending(Epoch(2, ELSEWHERE), HEAD)}, Reason.LEDGER_EPOCH),
        ({"pending": None, "certified": HEAD}, Reason.LEDGER_PROOF),
    ],
    ids=["promised to nobody", "promised to another", "cosigned in the future", "certified and never cosigned"],
)
def test_a_record_that_no_worker_has_is_refused_and_does_not_count(world, witnesses, changes, reason):
    with pytest.raises(LedgerError) as caught:
        promised(witnesses, "site-1", record(world, witnesses, **changes), KEY)
    assert caught.value.reason is reason
    assert witnesses.missing == 3


@pytest.mark.parametrize("key", [None, RecoveryKey(sha256(b"another"))], ids=["none", "another"])
def test_a_record_whose_log_the_recovery_key_did_not_sign_is_refused(world, witnesses, key):
    with pytest.raises(LedgerError) as caught:
        promised(witnesses, "site-1", record(world, witnesses), key)
    assert caught.value.reason is Reason.LEDGER_SIGNATURE
    assert witnesses.missing == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"record": "00"},
        {"record": "zz"},
        {"record": "00" * 2049},
        {"recovery_key": "00" * 31},
        {"recovery_key": "00" * 33},
        {"number": 0},
        {"number": MAX_EPOCH + 1},
        {"record": 1},
    ],
)
def test_what_is_no_promise_is_refused(witnesses, changes):
    message = {"number": 1, "record": None, "recovery_key": None} | changes
    with pytest.raises(ProtocolError), Fields(message, "promised") as fields:
        witnesses.take(peer(witnesses, "site-1"), fields)
    assert witnesses.missing == 3


def test_recovery_keys_stand_in_no_repr(world, witnesses):
    promised(witnesses, "site-1", record(world, witnesses), KEY)
    promised(witnesses, "site-2")
    promised(witnesses, "site-3")
    shown = repr((witnesses._promises, witnesses.memories()))
    assert KEY.secret.hex() not in shown
    assert repr(KEY.secret)[2:20] not in shown


def test_the_public_hears_between_which_two_logs_a_run_stands_and_else_the_reason_alone():
    told = refusal_event(Diverged(Reason.STATE_ROLLBACK, "older", held=NEWER, offered=HEAD))
    assert told.event == "state-refused"
    assert told.fields == {
        "reason": Reason.STATE_ROLLBACK.code,
        "held": f"9:{NEWER.root.hex()}",
        "offered": f"7:{HEAD.root.hex()}",
    }
    assert refusal_event(LedgerError(Reason.STATE_MISSING, "gone")).fields == {"reason": Reason.STATE_MISSING.code}
    assert EMPTY.size == 0
