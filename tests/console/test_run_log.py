"""``cloister run log``: the log of a real run holds, and every lie that a host can tell of it is refused and named.

The run is in memory: real admission, real witnesses. How the command fetches it is in test_process_commands.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from console.auditing import AuditedLog, Auditor, described, read_credential
from console.output import UserError
from console.run_log import read_head
from softtee.chip import Chip, SoftwareRoot
from tests.enclave.recoveries import Mortal, begun, go_on
from tests.enclave.test_privacy import Lasting
from tests.world import MEMBERS, World
from trusted.documents.terms import Aggregation, Cohort, Privacy
from trusted.errors import LedgerError, ProtocolError, Reason
from trusted.ledger import leaves
from trusted.ledger.checkpoint import EMPTY, Checkpoint, Diverged, TreeHead, origin_of
from trusted.ledger.leaves import Leaf
from trusted.ledger.merkle import Tree
from trusted.ledger.notes import Note
from trusted.ledger.segments import Segment, certificate_name, segment_name
from trusted.wire import sha256

Alter = Callable[[list[Leaf]], list[Leaf]]
ROOT = "00" * 32


@pytest.fixture(scope="module")
def world(software_root: SoftwareRoot, chip: Chip) -> World:
    """Four members, of whom three are drawn in each round."""
    return World(software_root, chip, plan_changes={"cohort": Cohort(MEMBERS, 2, 3)})


@dataclass
class Given:
    """What a host gives of a run's log, and what an auditor has beside it."""

    world: World
    blobs: dict[bytes, bytes]
    told: list[TreeHead]
    credentials: tuple[str, ...] = ()
    known: list[TreeHead] = field(default_factory=list)

    @classmethod
    def of(cls, net: Mortal) -> Given:
        told = [said for name, said in net.events if name == "checkpoint"]
        heads = [TreeHead(said["size"], bytes.fromhex(said["root"])) for said in told]
        return cls(net.world, dict(net.store.blobs), heads, net.world.members)

    @property
    def certificate(self) -> bytes:
        return self.blobs.get(certificate_name(self.world.plan.digest, self.told[-1]), b"") if self.told else b""

    def audit(self) -> AuditedLog:
        charter = self.world.charter
        read = [read_credential(self.world.membership(member).credential, charter) for member in self.credentials]
        auditor = Auditor(charter, self.world.plan, tuple(read))
        return auditor.audit(self.told, self.known, lambda name: self.blobs.get(name, b""), self.certificate)

    def forge(self, alter: Alter) -> None:
        """Let the host make up a log of one segment, with other leaves, and cosign it by the real workers' keys.

        No host can: this is what a quorum of colluding sites would have to do.
        """
        plan = self.world.plan.digest
        whole = Given(self.world, self.blobs, self.told).audit().leaves
        data = tuple(map(leaves.encode, alter(list(whole))))
        tree = Tree()
        for leaf in data:
            tree.append(leaf)
        head = TreeHead(tree.size, tree.root())
        checkpoint = Checkpoint(origin_of(plan), head)
        note = checkpoint.sign(Ed25519PrivateKey.generate())
        when = int(self.world.now.timestamp())
        lines = [checkpoint.cosign(m, self.world.worker_keys[m], time_s=when) for m in self.world.members]
        self.told = [head]
        self.blobs[segment_name(plan, head)] = Segment(EMPTY, b"", data).encode()
        self.blobs[certificate_name(plan, head)] = note.with_signatures(*lines).encode()


@pytest.fixture
def given(world: World) -> Given:
    return Given.of(begun(world))


def test_the_log_of_a_run_holds_and_every_cohort_is_drawn_again(given: Given, world: World) -> None:
    log = given.audit()
    kinds = [leaf.KIND for leaf in log.leaves]
    assert (kinds[0], kinds.count("committed"), kinds[-2:]) == ("genesis", 2, ["ended", "state"])
    assert log.cohorts == kinds.count("opened") == 2
    assert log.cosigners.is_quorum
    assert not log.cosigners.unchecked
    assert log.head == given.told[-1]
    assert [kind for kind, _ in described(log.leaves)] == kinds
    assert any(words.startswith("round 1, site-") for kind, words in described(log.leaves) if kind == "counted")


def test_the_log_holds_when_an_aggregator_died_in_between(world: World) -> None:
    net = Mortal(world)
    for member in world.members:
        net.live(member).automatic = False
    net.start()
    net.connect()
    for site in net.by_member.values():
        site.automatic = True
    go_on(net)
    log = Given.of(net).audit()
    assert "recovered" in [leaf.KIND for leaf in log.leaves]
    assert log.cohorts


def test_one_certificate_alone_is_kept_beside_the_log(given: Given) -> None:
    names = [certificate_name(given.world.plan.digest, head) for head in given.told]
    assert len(set(names)) > 2
    assert [name for name in names if name in given.blobs] == names[-1:]


def test_who_has_no_credential_at_hand_is_told_whose_cosignature_was_not_checked(given: Given) -> None:
    given.credentials = ("site-2",)
    cosigners = given.audit().cosigners
    assert cosigners.checked == ("site-2",)
    assert set(cosigners.checked + cosigners.unchecked + cosigners.absent) == set(given.world.members)
    assert not cosigners.is_quorum


def test_a_missing_segment_is_named_with_the_checkpoint_that_needs_it(given: Given) -> None:
    segments = [name for name, blob in given.blobs.items() if b"cloister/ledger-segment/v1" in blob[:64]]
    assert len(segments) > 2
    for name in segments:
        with pytest.raises(LedgerError) as refused:
            replace(given, blobs={key: blob for key, blob in given.blobs.items() if key != name}).audit()
        assert refused.value.reason is Reason.STATE_MISSING
        assert given.told[-1].root.hex() in str(refused.value)


@pytest.mark.parametrize("place", [3, 40, 60, -1, -40, -200])
def test_an_altered_segment_is_refused_and_both_checkpoints_are_named(given: Given, place: int) -> None:
    name = segment_name(given.world.plan.digest, given.told[-1])
    altered = bytearray(given.blobs[name])
    altered[place] ^= 1
    given.blobs[name] = bytes(altered)
    with pytest.raises(ProtocolError) as refused:
        given.audit()
    assert refused.value.reason in (Reason.STATE_ROLLBACK, Reason.STATE_MISSING)
    assert given.told[-1].root.hex() in str(refused.value)


def test_a_certificate_within_the_log_that_is_none_is_refused(given: Given) -> None:
    name = segment_name(given.world.plan.digest, given.told[-1])
    segment = Segment.decode(given.blobs[name])
    assert segment.certificate
    given.blobs[name] = replace(segment, certificate=b"\x00" + segment.certificate[1:]).encode()
    with pytest.raises(LedgerError) as refused:
        given.audit()
    assert refused.value.reason is Reason.LEDGER_SIGNATURE


def test_a_fork_that_was_told_before_is_refused_and_both_are_named(given: Given) -> None:
    fork = TreeHead(given.told[0].size, sha256(b"another log"))
    given.told.insert(0, fork)
    with pytest.raises(Diverged) as refused:
        given.audit()
    assert refused.value.reason is Reason.LEDGER_FORK
    assert fork.root.hex() in str(refused.value)
    assert given.told[1].root.hex() in str(refused.value)


def test_a_log_that_shrinks_is_refused_and_both_are_named(given: Given) -> None:
    newest = given.told[-1]
    given.told.append(given.told[0])
    with pytest.raises(Diverged) as refused:
        given.audit()
    assert refused.value.reason is Reason.LEDGER_SHRINKS
    assert (refused.value.held, refused.value.offered) == (newest, given.told[0])


def test_a_host_that_holds_back_the_newest_is_caught_by_who_knows_it(given: Given) -> None:
    newest = given.told.pop()
    given.told.pop()
    given.blobs[certificate_name(given.world.plan.digest, given.told[-1])] = b""  # it was discarded long ago
    given.known = [newest]
    with pytest.raises(Diverged) as refused:
        given.audit()
    assert refused.value.reason is Reason.LEDGER_SHRINKS
    assert refused.value.held == newest


def test_a_checkpoint_of_another_log_that_somebody_knows_is_refused(given: Given) -> None:
    given.known = [TreeHead(3, sha256(b"another log"))]
    with pytest.raises(Diverged) as refused:
        given.audit()
    assert refused.value.reason is Reason.LEDGER_FORK


def test_a_host_that_tells_of_no_checkpoint_or_gives_no_certificate_is_refused(given: Given) -> None:
    with pytest.raises(LedgerError) as refused:
        replace(given, told=[]).audit()
    assert refused.value.reason is Reason.STATE_MISSING
    del given.blobs[certificate_name(given.world.plan.digest, given.told[-1])]
    with pytest.raises(LedgerError) as refused:
        given.audit()
    assert refused.value.reason is Reason.STATE_MISSING


def _with_lines(given: Given, change: Callable[[Note], Note]) -> Given:
    name = certificate_name(given.world.plan.digest, given.told[-1])
    note = change(Note.parse(given.blobs[name]))
    return replace(given, blobs=given.blobs | {name: note.encode()})


def test_a_certificate_without_a_quorum_is_refused(given: Given) -> None:
    fewer = _with_lines(given, lambda note: replace(note, signatures=note.signatures[:3]))  # the log's own, and two
    with pytest.raises(LedgerError) as refused:
        fewer.audit()
    assert refused.value.reason is Reason.LEDGER_QUORUM


def test_a_cosignature_that_its_key_did_not_make_is_refused(given: Given) -> None:
    def bent(note: Note) -> Note:
        last = note.signatures[-1]
        return replace(
            note,
            signatures=(
                *note.signatures[:-1],
                replace(last, signature=last.signature[:-1] + bytes([last.signature[-1] ^ 1])),
            ),
        )

    with pytest.raises(LedgerError) as refused:
        _with_lines(given, bent).audit()
    assert refused.value.reason is Reason.LEDGER_SIGNATURE


def test_a_certificate_of_an_older_checkpoint_is_refused(given: Given, world: World) -> None:
    older = Checkpoint(origin_of(world.plan.digest), given.told[0])
    stale = _with_lines(given, lambda note: replace(note, text=older.text))
    with pytest.raises(Diverged) as refused:
        stale.audit()
    assert (refused.value.reason, refused.value.held) == (Reason.LEDGER_FORK, given.told[0])


def _another_cohort(said: list[Leaf]) -> list[Leaf]:
    """Whom a host would rather have: in round 1 a member that was not drawn, in place of one that was."""
    altered: list[Leaf] = []
    for leaf in said:
        if isinstance(leaf, leaves.Opened) and leaf.round == 1:
            rather = (set(leaf.present) - set(leaf.cohort)) | set(leaf.cohort[1:])
            altered.append(replace(leaf, cohort=tuple(sorted(rather))))
        elif isinstance(leaf, leaves.Closed) and leaf.round == 1:
            altered.append(replace(leaf, counted=()))
        else:
            altered.append(leaf)
    return altered


def _a_small_cohort(said: list[Leaf]) -> list[Leaf]:
    return [replace(leaf, cohort=leaf.cohort[:2]) if isinstance(leaf, leaves.Opened) else leaf for leaf in said]


def _counts_a_stranger(said: list[Leaf]) -> list[Leaf]:
    return [replace(leaf, counted=MEMBERS) if isinstance(leaf, leaves.Closed) else leaf for leaf in said]


def _another_seed(said: list[Leaf]) -> list[Leaf]:
    return [replace(leaf, seed=bytes(32)) if isinstance(leaf, leaves.Ended) else leaf for leaf in said]


def _another_plan(said: list[Leaf]) -> list[Leaf]:
    return [replace(leaf, plan=bytes(32)) if isinstance(leaf, leaves.Genesis) else leaf for leaf in said]


def _another_quorum(said: list[Leaf]) -> list[Leaf]:
    return [replace(leaf, quorum=1) if isinstance(leaf, leaves.Genesis) else leaf for leaf in said]


def _beginning_cut_off(said: list[Leaf]) -> list[Leaf]:
    return said[1:]


@pytest.mark.parametrize(
    "alter",
    [
        _another_cohort,
        _a_small_cohort,
        _counts_a_stranger,
        _another_seed,
        _another_plan,
        _another_quorum,
        _beginning_cut_off,
    ],
)
def test_what_even_a_quorum_cannot_make_true_is_refused(given: Given, alter: Alter) -> None:
    given.forge(alter)
    with pytest.raises(LedgerError) as refused:
        given.audit()
    assert refused.value.reason is Reason.LEDGER_LEAF


def test_a_log_that_nobody_altered_passes_the_same_way(given: Given) -> None:
    given.forge(lambda said: said)
    assert given.audit().cosigners.is_quorum


def test_a_credential_that_has_expired_since_is_good_for_what_was_cosigned_before(given: Given, world: World) -> None:
    envelope = world.membership("site-1").credential
    read = read_credential(envelope, world.charter)
    assert read.document.validity.not_after < world.now + timedelta(days=4000)
    given.forge(lambda said: said)
    name = certificate_name(world.plan.digest, given.told[-1])
    note = Note.parse(given.blobs[name])
    late = int(read.document.validity.not_after.timestamp()) + 1
    line = Checkpoint.parse(note.text).cosign("site-1", world.worker_keys["site-1"], time_s=late)
    others = [one for one in note.signatures if not one.name.endswith("/site-1")]
    given.blobs[name] = replace(note, signatures=(*others, line)).encode()
    with pytest.raises(LedgerError) as refused:
        given.audit()
    assert refused.value.reason is Reason.LEDGER_SIGNATURE


@pytest.mark.parametrize("text", ["", "3", "3:", f"x:{ROOT}", f"3:{ROOT[2:]}", f"-1:{ROOT}", "3:" + "zz" * 32])
def test_what_is_no_checkpoint_is_a_usage_error(text: str) -> None:
    with pytest.raises(UserError):
        read_head(text)
    assert read_head(f"3:{ROOT}") == TreeHead(3, bytes(32))


def spent(leaf: Leaf, epsilon: str) -> Leaf:
    return leaves.Spent(leaf.mechanism, (("epsilon", epsilon),)) if isinstance(leaf, leaves.Spent) else leaf


@pytest.fixture(scope="module")
def private_run(software_root: SoftwareRoot, chip: Chip) -> Mortal:
    terms = {"mechanism": "member-clipping", "clip_norm": 1, "noise_multiplier": 2, "epsilon": 9, "delta": 1e-5}
    alike = Aggregation.read({"rule": "weighted-mean", "max_weight": 1})
    private = World(software_root, chip, plan_changes={"privacy": Privacy.read(terms), "aggregation": alike})
    return begun(private, Lasting(private))


def test_a_log_says_what_privacy_cost(private_run: Mortal) -> None:
    log = Given.of(private_run).audit()
    assert [kind for kind, _ in described(log.leaves)].count("spent") == 2
    assert any("unit member" in leaf.mechanism for leaf in log.leaves if isinstance(leaf, leaves.Spent))


@pytest.mark.parametrize(
    "alter",
    [
        lambda log: [leaf for leaf in log if leaf.KIND != "spent"],
        lambda log: [spent(leaf, "9.1") for leaf in log],
        lambda log: [spent(leaf, str(5 - place / 1000)) for place, leaf in enumerate(log)],
    ],
    ids=["unpaid", "beyond the budget", "falling"],
)
def test_a_log_in_which_privacy_was_not_paid_for_is_refused(private_run: Mortal, alter: Alter) -> None:
    given = Given.of(private_run)
    given.forge(alter)
    with pytest.raises(LedgerError) as caught:
        given.audit()
    assert caught.value.reason is Reason.LEDGER_LEAF
