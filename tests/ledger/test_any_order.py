"""Whatever the host delivers, drops, repeats or starts anew, two certified checkpoints lie on one line.

Aggregators are attested: each goes on from one of `candidates` before it proposes, whichever the host has anything
for. The host decides which of them live, how many at once, with which epoch numbers, and who hears what when.
Witnesses keep their records.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ledger.logs import MEMBERS, NOW_S, SECRETS, Log, epoch, fresh, state, states
from trusted.errors import LedgerError
from trusted.ledger.checkpoint import Quorum, TreeHead
from trusted.ledger.merkle import verify_consistency
from trusted.ledger.notes import Note
from trusted.ledger.recovery import candidates
from trusted.ledger.witness import Epoch, Proposal, WitnessRecord, certified, promise, witness


class Aggregator:
    """One instance: it hears promises, goes on from the newest, adds to its log and proposes."""

    def __init__(self, at: Epoch, salt: bytes, passed_over: int) -> None:
        self.epoch, self.salt, self.passed_over = at, salt, passed_over
        self.promises: dict[str, WitnessRecord] = {}
        self.log: Log | None = None

    def extend(self) -> None:
        if self.log is not None:
            self.log.add(state(len(self.log.leaves), self.salt))


class World:
    """The host's view: all instances, all notes, all cosignatures that anybody ever made."""

    def __init__(self, count: int) -> None:
        self.members = MEMBERS[:count]
        self.quorum = Quorum(self.members, count // 2 + 1)
        self.records = {member: fresh() for member in self.members}
        self.aggregators: list[Aggregator] = []
        self.logs: dict[TreeHead, Log] = {}
        self.notes: dict[TreeHead, Note] = {}

    def start(self, number: int, passed_over: int = 0) -> None:
        """Another instance, to which the host gives nothing for the newest logs, ``passed_over`` of them."""
        place = len(self.aggregators)
        self.aggregators.append(Aggregator(epoch(number, f"boot {place}"), b"%d" % place, passed_over))

    def ask(self, who: Aggregator, member: str) -> None:
        self.records[member] = promise(self.records[member], who.epoch)
        who.promises[member] = self.records[member]
        if who.log is None:
            found = candidates(who.promises, who.epoch, self.quorum)
            head = found[min(who.passed_over, len(found) - 1)].head
            who.log = self.logs[head].branch(head.size) if head.size else Log()
            who.extend()

    def propose(self, who: Aggregator, member: str) -> None:
        if who.log is not None:
            base = self.records[member].base(who.epoch).size
            self.deliver(who.log, who.log.proposal(who.epoch, base), member)

    def deliver(self, log: Log, proposal: Proposal, member: str) -> None:
        done = witness(self.records[member], proposal)
        self.records[member] = done.record
        head = done.checkpoint.head
        self.logs.setdefault(head, log.branch(head.size))
        made = self.notes.setdefault(head, Note.parse(proposal.note))
        self.notes[head] = made.with_signatures(done.checkpoint.cosign(member, SECRETS[member], time_s=NOW_S))

    def tell(self, head: TreeHead, member: str) -> None:
        self.records[member] = certified(self.records[member], head)

    def certified(self, needed: int) -> list[TreeHead]:
        """What enough members have ever cosigned; the log's own line is not counted."""
        return [head for head, note in self.notes.items() if len(note.signatures) - 1 >= needed]


def require_one_line(world: World, needed: int) -> None:
    for one, other in combinations(sorted(world.certified(needed), key=lambda head: head.size), 2):
        log = world.logs[other]
        proof = log.tree.consistency_proof(one.size)
        verify_consistency(proof, old=one.size, old_root=one.root, new=other.size, new_root=other.root)


WHOM = st.integers(0, 31)  # a bit for each member
STEPS = st.tuples(st.integers(0, 2), WHOM, st.booleans(), WHOM, st.sampled_from([0, 0, 31]))


def reached(world: World, whom: int, act: Callable[[str], None]) -> None:
    """``act`` for the members that are reached; what one of them refuses has not happened."""
    for member in (one for place, one in enumerate(world.members) if whom >> place & 1):
        with suppress(LedgerError):
            act(member)


def step(world: World, who: Aggregator, asked: int, *, extend: bool, proposed: int, told: int) -> None:
    """An aggregator asks some, may add to its log, proposes to some; some hear of the last certificate."""
    reached(world, asked, lambda member: world.ask(who, member))
    if extend:
        who.extend()
    reached(world, proposed, lambda member: world.propose(who, member))
    certified = world.certified(world.quorum.needed)
    if certified:
        reached(world, told, lambda member: world.tell(certified[-1], member))


@settings(deadline=None, max_examples=200)
@given(
    count=st.sampled_from([3, 3, 4, 5]),
    numbers=st.sampled_from([(1, 2, 3), (1, 1, 2), (1, 2, 2), (2, 1, 3)]),
    passed_over=st.tuples(*[st.sampled_from([0, 0, 1, 2, 9])] * 3),
    steps=st.lists(STEPS, min_size=3, max_size=12),
)
def test_two_certified_checkpoints_lie_on_one_line_whatever_the_order(count, numbers, passed_over, steps):
    world = World(count)
    for number, logs in zip(numbers, passed_over, strict=True):
        world.start(number, logs)
    for which, asked, extend, proposed, told in steps:
        step(world, world.aggregators[which], asked, extend=extend, proposed=proposed, told=told)
    require_one_line(world, world.quorum.needed)


@settings(deadline=None, max_examples=150)
@given(count=st.integers(1, 5), common=st.integers(0, 3),
       steps=st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(1, 6)), max_size=40))  # fmt: skip
def test_two_forks_are_never_both_certified_in_one_epoch_even_by_a_log_that_lies(count, common, steps):
    """Here the signer of the log itself tells two stories; the witnesses alone hold the line."""
    world, at = World(count), epoch(1)
    stem = states(*range(common))
    forks = [stem.branch(common).add(*(state(number, salt) for number in range(6))) for salt in (b"left", b"right")]
    for member in world.members:
        world.records[member] = promise(world.records[member], at)
    for left, whom, size in steps:
        member, log = world.members[whom % count], forks[left]
        with suppress(LedgerError):
            world.deliver(log, log.proposal(at, world.records[member].base(at).size, size), member)
    require_one_line(world, world.quorum.needed)


ONE, TWO, THREE = 1, 2, 4  # the members of a world of three
SCENARIOS = {  # (aggregator, asked, extend, proposed, told)
    "a longer log of an older epoch": [
        (0, ONE | TWO, True, ONE, 0),
        (1, TWO | THREE, False, TWO | THREE, 0),
        (2, ONE | TWO, True, ONE | TWO, 0),
    ],
    "a witness that missed the last": [
        (0, ONE | TWO | THREE, False, ONE | TWO, 0),
        (0, 0, True, ONE | THREE, 0),
        (1, TWO | THREE, True, TWO | THREE, 0),
    ],
    "an old aggregator that still talks": [
        (0, ONE | TWO, False, ONE | TWO, 31),
        (1, TWO | THREE, True, TWO | THREE, 31),
        (0, ONE | TWO | THREE, True, ONE | TWO | THREE, 31),
    ],
}


@pytest.mark.parametrize("steps", SCENARIOS.values(), ids=SCENARIOS)
def test_known_dangers_certify_on_one_line(steps):
    world = World(3)
    for number in (1, 2, 3):
        world.start(number)
    for which, asked, extend, proposed, told in steps:
        step(world, world.aggregators[which], asked, extend=extend, proposed=proposed, told=told)
    assert len(world.certified(2)) >= 2
    require_one_line(world, 2)


def ran(world: World, who: Aggregator, members: tuple[str, ...]) -> None:
    everybody = sum(1 << world.members.index(member) for member in members)
    step(world, who, everybody, extend=False, proposed=everybody, told=0)


def test_such_runs_do_certify_and_go_on_after_a_restart():
    world = World(5)
    world.start(1)
    ran(world, world.aggregators[0], MEMBERS[:3])
    world.start(2)
    ran(world, world.aggregators[1], MEMBERS[2:])
    heads = sorted(world.certified(3), key=lambda head: head.size)
    assert [head.size for head in heads] == [1, 2]
    require_one_line(world, 3)


def test_with_half_of_the_members_both_forks_would_be_certified():
    """The reason for more than half: the same property, with a quorum that is not one, does not hold."""
    world = World(4)
    world.quorum = Quorum(MEMBERS[:2], 2)
    world.start(1)
    ran(world, world.aggregators[0], MEMBERS[:2])
    world.quorum = Quorum(MEMBERS[2:4], 2)
    world.start(2)
    ran(world, world.aggregators[1], MEMBERS[2:4])
    first, second = world.certified(2)
    assert first.size == second.size
    assert first != second


def test_without_recovery_from_the_newest_a_dropped_pending_could_be_lost():
    """The reason for rule 3's second half: a witness alone cannot know that a quorum cosigned what it drops."""
    world = World(5)
    world.start(1)
    ran(world, world.aggregators[0], MEMBERS[:3])
    careless = epoch(2, "careless")
    fork = states(7, 8)
    for member in MEMBERS[2:]:
        world.records[member] = promise(world.records[member], careless)
        world.deliver(fork, fork.proposal(careless, 0), member)
    assert {head.size for head in world.certified(3)} == {1, 2}
    assert world.logs[fork.head()].head(1) not in world.certified(3)
