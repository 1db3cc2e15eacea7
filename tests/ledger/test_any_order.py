"""Whatever the host delivers, drops, repeats or starts anew, two certified checkpoints lie on one line.

Aggregators are attested: each runs `newest` before it proposes. The host decides which of them live, how many at once,
with which epoch numbers, and who hears what when. Witnesses keep their records.
"""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ledger.logs import KEYS, MEMBERS, NOW_S, SECRETS, Log, epoch, fresh, state, states
from trusted.errors import LedgerError
from trusted.ledger.checkpoint import Quorum, TreeHead
from trusted.ledger.merkle import verify_consistency
from trusted.ledger.notes import Note
from trusted.ledger.recovery import newest
from trusted.ledger.witness import Epoch, Proposal, WitnessRecord, certify, promise, witness


class Aggregator:
    """One instance: it hears promises, goes on from the newest, adds to its log and proposes."""

    def __init__(self, at: Epoch, salt: bytes) -> None:
        self.epoch, self.salt = at, salt
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

    def start(self, number: int) -> None:
        place = len(self.aggregators)
        self.aggregators.append(Aggregator(epoch(number, f"boot {place}"), b"%d" % place))

    def ask(self, who: Aggregator, member: str) -> None:
        self.records[member] = promise(self.records[member], who.epoch)
        who.promises[member] = self.records[member]
        if who.log is None and len(who.promises) >= self.quorum.needed:
            head = newest(who.promises, who.epoch, self.quorum)
            who.log = self.logs[head].branch(head.size) if head.size else Log()
            who.extend()

    def propose(self, who: Aggregator, member: str, size: int) -> None:
        if who.log is not None:
            size = min(max(size, 1), who.log.tree.size)
            base = self.records[member].base(who.epoch).size
            self.deliver(who.log, who.log.proposal(who.epoch, base, size), member)

    def deliver(self, log: Log, proposal: Proposal, member: str) -> None:
        done = witness(self.records[member], proposal)
        self.records[member] = done.record
        head = done.checkpoint.head
        self.logs.setdefault(head, log.branch(head.size))
        made = self.notes.setdefault(head, Note.parse(proposal.note))
        self.notes[head] = made.with_signatures(done.checkpoint.cosign(member, SECRETS[member], time_s=NOW_S))

    def tell(self, head: TreeHead, member: str) -> None:
        self.records[member] = certify(self.records[member], self.notes[head].encode(), KEYS, self.quorum)

    def certified(self, needed: int) -> list[TreeHead]:
        """What enough members have ever cosigned; the log's own line is not counted."""
        return [head for head, note in self.notes.items() if len(note.signatures) - 1 >= needed]


def require_one_line(world: World, needed: int) -> None:
    for one, other in combinations(sorted(world.certified(needed), key=lambda head: head.size), 2):
        log = world.logs[other]
        proof = log.tree.consistency_proof(one.size)
        verify_consistency(proof, old=one.size, old_root=one.root, new=other.size, new_root=other.root)


STEPS = st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 4), st.integers(1, 6))


def step(world: World, kind: int, which: int, whom: int, number: int) -> None:
    """One thing that the host lets happen; what is refused has not."""
    who, member = world.aggregators[which % len(world.aggregators)], world.members[whom % len(world.members)]
    if kind == 0:
        world.start(number)
    elif kind <= 3:
        world.ask(who, member)
    elif kind == 4:
        who.extend()
    elif kind <= 8:
        world.propose(who, member, number)
    elif world.notes:
        world.tell(list(world.notes)[number % len(world.notes)], member)


@settings(deadline=None, max_examples=300)
@given(count=st.integers(1, 5), numbers=st.lists(st.integers(1, 4), min_size=1, max_size=3),
       steps=st.lists(STEPS, max_size=80))  # fmt: skip
def test_two_certified_checkpoints_lie_on_one_line_whatever_the_order(count, numbers, steps):
    world = World(count)
    for number in numbers:
        world.start(number)
    for one in steps:
        try:
            step(world, *one)
        except LedgerError:
            continue
    require_one_line(world, world.quorum.needed)


@settings(deadline=None, max_examples=300)
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
        try:
            world.deliver(log, log.proposal(at, world.records[member].base(at).size, size), member)
        except LedgerError:
            continue
    require_one_line(world, world.quorum.needed)


def ran(world: World, who: Aggregator, members: tuple[str, ...]) -> None:
    for member in members:
        world.ask(who, member)
    for member in members:
        world.propose(who, member, 99)


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
