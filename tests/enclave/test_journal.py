"""The journal of a run under way: what is stored before it is proposed, what a certificate certifies, what then goes.

Real sessions and real witnesses; the test decides when a cosignature arrives, and when a job is done.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from coordinator.enclave.journal import Journal
from tests.enclave.runs import running
from tests.enclave.test_jobs import LaterNet
from tests.world import Net, SimpleSite, World
from trusted.errors import Reason
from trusted.ledger.checkpoint import Checkpoint, TreeHead
from trusted.ledger.leaves import Admitted, Committed, Opened, State, parse
from trusted.ledger.merkle import verify_consistency
from trusted.ledger.notes import Note
from trusted.ledger.segments import Segment, read_log, segment_name
from worker.participant import Answer


class Held(Net):
    """Cosignatures wait until the test lets them go; sites wait for it, too."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.held: list[tuple[int, dict[str, Any]]] = []
        self.holds = True
        self.proposals: dict[str, list[dict[str, Any]]] = {}

    def join(self, site: SimpleSite) -> int:
        site.automatic = False
        return super().join(site)

    def say(self, connection: int, message: dict[str, Any]) -> None:
        if self.holds and message["type"] == "cosigned":
            self.held.append((connection, message))
            self.proposals.setdefault(self.sites[connection].member, []).append(self.messages[connection]["witness"])
        else:
            super().say(connection, message)

    def let_go(self, *members: str, size: int | None = None) -> None:
        """What ``members`` cosigned arrives: of the checkpoint of ``size`` leaves, or all."""
        going = [
            one
            for one in self.held
            if one[0] not in self.closed and self.sites[one[0]].member in members and size in (None, one[1]["size"])
        ]
        self.held = [one for one in self.held if one not in going]
        for connection, message in going:
            super().say(connection, message)

    @property
    def journal(self) -> Journal:
        return self.aggregator._run._course.require_journal()

    def sizes(self, member: str = "site-1") -> list[int]:
        """Of the checkpoints that were proposed to ``member``, in this order."""
        return [head_of(message).size for message in self.proposals[member]]

    def commit(self, then: list[str] | None = None, spent: tuple[bytes, ...] = ()) -> int:
        """One more leaf, and the newest state witnessed over it; the size of that checkpoint."""
        journal, told = self.journal, then if then is not None else []
        journal.append(Committed(len(told) + 1))
        journal.recommit(self.now, then=lambda now: told.append(f"{len(told) + 1}"), spent=spent)
        self.perform(self.aggregator.tick(self.now))
        return journal.log.tree.size


def head_of(message: dict[str, Any]) -> TreeHead:
    return Checkpoint.parse(Note.parse(message["note"].encode()).text).head


@pytest.fixture
def held(world) -> Held:
    net = Held(world)
    running(world, net=net)
    assert len(net.outcomes("round-opened")) == 1
    return net


def test_everything_is_stored_before_it_is_proposed(world):
    """The job that stores is held back: no witness hears of the checkpoint until the host has both blobs."""
    net = LaterNet(world)
    running(world, net=net)
    while not net.outcomes("initial-model"):
        net.let_run()
    net.let_run()  # the round's model is sealed
    journal = net.aggregator._run._course.require_journal()
    head = journal.log.head
    assert all("witness" not in said and "task" not in said for said in net.messages.values())
    assert segment_name(world.plan.digest, head) not in net.store.blobs
    net.let_run()
    segment = Segment.decode(net.store.blobs[segment_name(world.plan.digest, head)])
    state = parse(segment.leaves[-1])
    assert isinstance(state, State)
    assert state.blob in net.store.blobs
    assert {head_of(said["witness"]) for said in net.messages.values()} == {head}


def test_the_log_names_a_rounds_model_by_what_stands_before_its_first_piece(held):
    run = held.aggregator._run
    sent = run._rounds._require_sent().sent
    prefix = held.store.blobs[sent.blob][: sent.header(run._course.exchanged).prefix_bytes]
    segment = Segment.decode(held.store.blobs[segment_name(held.world.plan.digest, held.journal.log.head)])
    (opened,) = [leaf for leaf in map(parse, segment.leaves) if isinstance(leaf, Opened)]
    assert opened.model_prefix_sha256 == hashlib.sha256(prefix).digest()


def test_what_is_stored_is_the_whole_log_of_what_is_proposed(held):
    for _ in range(3):
        held.commit()
    for message in held.proposals["site-1"]:
        head = head_of(message)
        log = read_log(held.world.plan.digest, head, lambda name: held.store.blobs.get(name, b""))
        assert log.leaves[-1].hex() == message["leaf"]


def test_checkpoints_are_proposed_one_behind_the_other_and_each_extends_the_last(held):
    for _ in range(3):
        held.commit()
    assert held.sizes() == sorted(held.sizes())
    assert len(set(held.sizes())) == 4
    before = TreeHead(0, b"")
    for message in held.proposals["site-1"]:
        head = head_of(message)
        if before.size:
            proof = tuple(bytes.fromhex(node) for node in message["consistency"])
            verify_consistency(proof, old=before.size, old_root=before.root, new=head.size, new_root=head.root)
        before = head
    sequences = [parse(bytes.fromhex(message["leaf"])).sequence for message in held.proposals["site-1"]]
    assert sequences == [1, 2, 3, 4]


def test_what_waits_for_a_checkpoint_happens_with_a_quorum_and_not_before(held):
    told: list[str] = []
    size = held.commit(told)
    held.let_go("site-1", "site-2")
    assert (told, held.journal.certified.size) == ([], 0)
    assert held.journal.waiting_for_witnesses == ("site-3", "site-4")
    held.let_go("site-3")
    assert (told, held.journal.certified.size) == (["1"], size)
    assert held.journal.waiting_for_witnesses == ()
    held.let_go("site-4")
    assert told == ["1"]


def test_a_quorum_on_a_later_checkpoint_certifies_the_earlier_ones_in_their_order(held):
    told: list[str] = []
    held.commit(told)
    held.commit(told)
    last = held.commit(told)
    for member in ("site-2", "site-3", "site-4"):
        held.let_go(member, size=last)
    assert told == ["1", "2", "3"]
    assert held.journal.certified.size == last
    held.let_go("site-1", "site-2", "site-3", "site-4")  # late, for what is certified already: nothing more happens
    assert told == ["1", "2", "3"]


def test_a_quorum_on_an_earlier_checkpoint_certifies_no_later_one(held):
    told: list[str] = []
    first = held.commit(told)
    held.commit(told)
    for member in held.world.members:
        held.let_go(member, size=first)
    assert told == ["1"]
    assert held.journal.certified.size == first


def test_the_certificate_holds_the_lines_of_those_who_cosigned_and_stands_in_the_next_segment(held):
    held.let_go("site-1", "site-2", "site-3")
    certificate = held.journal.certificate
    assert certificate is not None
    assert len(certificate.signatures) == 4  # the log's own, and three
    held.commit()
    segment = Segment.decode(held.store.blobs[segment_name(held.world.plan.digest, held.journal.log.head)])
    assert segment.certificate == certificate.encode()


def test_spent_blobs_and_earlier_states_go_only_when_the_checkpoint_is_certified(held):
    held.store.blobs[b"spent"] = b"a model that nobody needs"

    def states() -> int:
        return sum(b"cloister/run-state/v1" in blob[:64] for blob in held.store.blobs.values())

    first = held.sizes()[0]
    last = held.commit(spent=(b"spent",))
    assert (states(), b"spent" in held.store.blobs) == (2, True)
    for member in held.world.members:
        held.let_go(member, size=first)
    assert (states(), b"spent" in held.store.blobs) == (2, True)  # a restart would go on from the second one
    for member in held.world.members:
        held.let_go(member, size=last)
    assert (states(), b"spent" in held.store.blobs) == (1, False)
    newest = parse(bytes.fromhex(held.proposals["site-1"][-1]["leaf"]))
    assert newest.blob in held.store.blobs


def test_no_segment_is_ever_discarded(held):
    heads = []
    for _ in range(3):
        held.commit()
        heads.append(held.journal.log.head)
        held.let_go(*held.world.members)
    assert all(segment_name(held.world.plan.digest, head) in held.store.blobs for head in heads)


def test_who_comes_late_is_proposed_what_is_still_open(held):
    held.commit()
    held.commit()
    open_sizes = held.sizes()
    back = held.join(SimpleSite(held.world, "site-4"))
    assert held.sites[back].error is None
    assert held.sizes("site-4")[-3:] == open_sizes
    held.let_go(*held.world.members)
    gone = held.join(SimpleSite(held.world, "site-3"))
    assert "witness" not in held.messages[gone]  # nothing is open


def test_who_comes_in_the_middle_of_a_session_is_proposed_only_what_extends_what_it_cosigned(held):
    """A proof is made from what this very session cosigned last, so that each witness can follow."""
    held.commit()
    for messages in held.proposals.values():
        assert head_of(messages[1]).size > head_of(messages[0]).size
        assert messages[1]["consistency"] != messages[0]["consistency"] == []
    assert {site.error for site in held.sites.values()} == {None}


def test_in_a_new_epoch_everybody_can_follow_although_nothing_was_certified(held):
    """Each witness holds on to what was certified, which is nothing yet, and not to what it cosigned before."""
    moved = {"type": "ready", "has_initial": False, "promised": {"number": 1, "boot": "77" * 16}}
    held.say(4, moved)
    assert {site.error for site in held.sites.values()} == {None}
    assert held.closed == {}
    held.let_go(*held.world.members)
    assert held.journal.certified == held.journal.log.head


def test_a_cosignature_counts_once_for_each_member_and_for_what_was_proposed(held):
    connection, said = held.held[0]
    for _ in range(3):
        Net.say(held, connection, said)
    assert held.journal.certified.size == 0
    assert held.closed == {}
    Net.say(held, connection, said | {"size": said["size"] + 1})
    assert held.closed == {connection: Reason.LEDGER_PROOF}


def test_leaves_of_admissions_stand_before_the_state_that_follows_them(held):
    log = read_log(held.world.plan.digest, held.journal.log.head, lambda name: held.store.blobs.get(name, b""))
    kinds = [type(parse(leaf)).__name__ for leaf in log.leaves]
    assert kinds == ["Genesis", "Admitted", "Admitted", "Admitted", "Admitted", "Opened", "State"]


def test_the_ledger_names_what_a_worker_committed_its_rows_to(held):
    log = read_log(held.world.plan.digest, held.journal.log.head, lambda name: held.store.blobs.get(name, b""))
    admitted = [leaf for leaf in map(parse, log.leaves) if isinstance(leaf, Admitted)]
    assert {leaf.member: leaf.dataset for leaf in admitted} == {
        member: held.world.membership(member).commitment for member in held.world.members
    }


class Asked(Net):
    """Notes of each cosignature whether it was asked for at once."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.at_once: list[bool] = []

    def act(self, connection: int, action: Any) -> None:
        if isinstance(action, Answer) and action.message["type"] == "cosigned":
            self.at_once.append(action.urgent)
        super().act(connection, action)


@pytest.mark.parametrize(("large", "hurried"), [(1, True), (1 << 30, False)])
def test_witnesses_answer_at_once_where_large_updates_wait_for_the_opening_of_a_round(
    world, monkeypatch, large, hurried
):
    monkeypatch.setattr("coordinator.enclave.course._LARGE_BYTES", large)
    net = running(world, net=Asked(world))
    count = len(world.members)
    rounds = [net.at_once[place : place + 2 * count] for place in range(0, 4 * count, 2 * count)]
    assert rounds[0] == [False] * count + [True] * count  # nothing was spent when the first one opened
    assert rounds[1] == [hurried] * count + [True] * count


@pytest.mark.parametrize(
    ("message_bytes", "large", "spent", "hurried"),
    [
        (0, 4028, (b"one",), True),  # what the updates of this plan have
        (0, 4029, (b"one",), False),
        (0, 1, (), False),
        (8000, 8000, (b"one",), True),  # under the rule server-app a message
        (8000, 8001, (b"one",), False),
    ],
)
def test_the_room_of_an_update_or_of_an_apps_message_counts(held, monkeypatch, message_bytes, large, spent, hurried):
    course = held.aggregator._run._course
    assert course.exchanged.part.elements == 1007
    course.exchanged = replace(course.exchanged, message_bytes=message_bytes)
    monkeypatch.setattr("coordinator.enclave.course._LARGE_BYTES", large)
    assert course.is_large(spent) is hurried
