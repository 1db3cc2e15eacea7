"""Long work that comes back later: what may happen in between, and that lanes change no bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.fold import Advance, Contribution, ContributionLost, State, fold
from coordinator.enclave.jobs import Inline
from coordinator.host.run_status import RunState, RunStatus
from softtee.chip import Chip, SoftwareRoot
from tests.enclave.runs import keep_alive, released_model, weighted
from tests.world import INITIAL, LAYOUT, MemoryStore, Net, SimpleSite, World
from trusted.blob import BlobHeader, BlobKind, ContentKey, seal_vector
from trusted.documents.terms import Aggregation, Rule
from trusted.encoding import Encoding
from trusted.errors import BlobError, Reason
from trusted.release import release_name

FIVE = ("site-1", "site-2", "site-3", "site-4", "site-5")
MEAN = Aggregation(Rule.WEIGHTED_MEAN, 1000)
BIG = 5 * 3 * Encoding.FLOAT32.piece_elements + 1001  # more reads than lanes, and a short last piece


class Lanes(Inline):
    """Really side by side."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def each_lane(self, work: Callable[[int, int], None]) -> None:
        failures: list[Exception] = []

        def run(lane: int) -> None:
            try:
                work(lane, self.lanes)
            except Exception as failure:
                failures.append(failure)

        threads = [threading.Thread(target=run, args=(lane,)) for lane in range(self.lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]


class Later(Inline):
    """Keeps every job until the test lets it run."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Callable[[Any, datetime], None]]] = []
        self.submitted = 0

    def submit(self, work: Callable[[], Any], done: Callable[[Any, datetime], None], now: datetime) -> None:
        self.submitted += 1
        self.waiting.append((work, done))


class CountingStore(MemoryStore):
    """Remembers which blobs were read."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    def read(self, blob: bytes, offset: int, size_bytes: int) -> bytes:
        self.asked.append(blob)
        return super().read(blob, offset, size_bytes)


class LaterNet(Net):
    """A run whose jobs wait for the test; sites wait for it, too."""

    def __init__(self, world: World) -> None:
        self.counting = CountingStore()
        super().__init__(world, self.counting)
        self.jobs = Later()
        self.aggregator = Aggregator(world.federation, world.identity("aggregator"), self.store, self.jobs)

    def join(self, site: SimpleSite) -> int:
        site.automatic = False
        return super().join(site)

    def let_run(self, which: int = 0) -> None:
        """One job is done, and its outcome comes back."""
        work, done = self.jobs.waiting.pop(which)
        value = work()
        self.perform(self.aggregator.finish(lambda now: done(value, now), self.now))

    def let(self, kind: str) -> None:
        """The newest job of this kind is done."""
        self.let_run(max(place for place, (work, _) in enumerate(self.jobs.waiting) if kind in work.__qualname__))

    def let_all_run(self) -> None:
        while self.jobs.waiting:
            self.let_run()

    def contribute_all(self, *connections: int, **changes: Any) -> None:
        for connection in connections or tuple(self.sites):
            self.contribute(connection, self.sites[connection].tasks[-1], **changes)

    def damage(self, connection: int) -> None:
        """The host flips a bit of what this site sent."""
        name = self.sites[connection].tasks[-1].upload
        blob = self.store.blobs[name]
        self.store.blobs[name] = blob[:-40] + bytes([blob[-40] ^ 1]) + blob[-39:]


def collecting(world: World) -> LaterNet:
    """The first round's tasks are with all sites."""
    net = LaterNet(world)
    net.start()
    for index, member in enumerate(world.members):
        net.join(SimpleSite(world, member, has_initial=index == 0))
    net.let_all_run()
    assert all(site.tasks for site in net.sites.values())
    return net


@pytest.fixture(scope="session")
def five(software_root: SoftwareRoot, chip: Chip) -> World:
    return World(software_root, chip, members=FIVE)


def next_model(net: LaterNet, connection: int) -> np.ndarray:
    """The model of the round that is open now."""
    net.contribute(connection, net.sites[connection].tasks[-1])
    return net.sites[connection].models[-1]


def test_a_whole_run_of_jobs_that_come_later_releases_the_same_model(world):
    net = collecting(world)
    for _ in range(world.plan.document.rounds):
        net.contribute_all()
        net.let_all_run()
    assert net.aggregator.state.value == "finished"
    expected = INITIAL + 2 * np.float32(weighted(world, world.members))
    np.testing.assert_allclose(released_model(world, net, "site-1"), expected, rtol=1e-6)


def test_an_update_that_was_read_while_the_round_collects_is_told_so_at_once(world):
    net = collecting(world)
    net.contribute_all(1)
    assert net.sites[1].receipts == []
    net.let_run()
    assert net.sites[1].receipts == [None]
    assert net.outcomes("round-committed") == []


def test_updates_that_arrive_together_are_first_read_by_the_fold(world):
    net = collecting(world)
    uploads = [site.tasks[-1].upload for site in net.sites.values()]
    net.counting.asked.clear()
    net.contribute_all()
    assert net.counting.asked == []
    assert [site.receipts for site in net.sites.values()] == [[]] * 4
    net.let_run(-1)
    assert set(net.counting.asked) == set(uploads)
    assert net.outcomes("round-committed") == []  # what was folded is not witnessed yet
    net.let_run(-1)
    assert len(net.outcomes("round-committed")) == 1
    assert [site.receipts for site in net.sites.values()] == [[None]] * 4
    net.let_all_run()  # what was to read them finds nothing left to say
    assert [site.receipts for site in net.sites.values()] == [[None]] * 4


def test_a_bad_one_among_unread_updates_is_named_and_the_rest_folds(world):
    net = collecting(world)
    net.contribute_all()
    net.damage(2)
    net.let_run(-1)
    net.let_all_run()
    assert [site.receipts[0] for site in net.sites.values()] == [None, Reason.BLOB_OPEN, None, None]
    told = {fields["member"]: fields["outcome"] for fields in net.outcomes("contribution")}
    assert told == {"site-1": "counted", "site-2": "refused", "site-3": "counted", "site-4": "counted"}
    expected = INITIAL + np.float32(weighted(world, ("site-1", "site-3", "site-4")))
    np.testing.assert_allclose(next_model(net, 1), expected, rtol=1e-6)


def test_an_unread_update_that_is_not_finite_costs_its_own_contribution_only(world):
    """Unlike one that was finite when it was read (tests/evil_host/test_stored_blobs.py): that one has two faces."""
    net = collecting(world)
    net.contribute_all(1, delta=np.full(LAYOUT.elements, np.nan))
    net.contribute_all(2, 3, 4)
    net.let_run(-1)
    net.let_all_run()
    assert [site.receipts for site in net.sites.values()] == [[Reason.NON_FINITE], [None], [None], [None]]
    assert len(net.outcomes("round-committed")) == 1


def test_many_bad_updates_cost_one_more_fold_and_not_one_each(five):
    net = collecting(five)
    net.contribute_all()
    for connection in (1, 3, 5):
        net.damage(connection)
    net.let("write")  # it is witnessed who counts
    before = net.jobs.submitted
    net.let("fold")
    assert net.jobs.submitted == before + 2  # the fold without them, and its witnesses
    net.let("fold")
    net.let("write")
    assert len(net.outcomes("round-committed")) == 1
    told = [site.receipts[0] for site in net.sites.values()]
    assert told == [Reason.BLOB_OPEN, None, Reason.BLOB_OPEN, None, Reason.BLOB_OPEN]


def test_the_stages_of_a_round_hold_the_time_of_every_fold(world):
    net = collecting(world)
    net.now += timedelta(seconds=5)
    net.contribute_all()
    net.damage(2)
    for _ in range(2):
        net.let("write")  # and witnessed at once
        net.now += timedelta(seconds=3)
        net.let("fold")
    (told,) = net.outcomes("round-stages")
    assert told["metrics"] == {"broadcast": 0.0, "collect": 5.0, "fold": 6.0}


def test_what_workers_say_of_their_stages_is_told_as_mean_and_maximum(world):
    net = collecting(world)
    for connection, train in ((1, 1.0), (2, 2.0), (3, 6.0), (4, 7.0)):
        seconds = {"download": 0.5, "train": train, "seal": 0.25, "upload": 0}
        net.contribute_all(connection, seconds=seconds)
    net.let_all_run()
    told = net.outcomes("round-stages")[0]["metrics"]
    assert (told["train.mean"], told["train.max"], told["seal.max"], told["upload.mean"]) == (4.0, 7.0, 0.25, 0.0)


@pytest.mark.parametrize(
    "seconds",
    [{"download": 1}, {"download": 1, "train": -1, "seal": 1, "upload": 1}, dict.fromkeys("dtsu", 1), {}],
    ids=["missing", "negative", "others", "none"],
)
def test_stages_of_another_form_end_the_session_that_says_them(world, seconds):
    net = collecting(world)
    net.contribute_all(1, seconds=seconds)
    assert list(net.closed) == [1]
    net.contribute_all(2)
    assert list(net.closed) == [1]


def test_too_few_good_updates_abandon_the_round_and_leave_the_model(world):
    net = collecting(world)
    net.contribute_all()
    for connection in (1, 2, 3):
        net.damage(connection)
    net.let_run(-1)
    net.let_all_run()
    assert len(net.outcomes("round-abandoned")) == 1
    assert net.outcomes("round-committed") == []
    np.testing.assert_array_equal(next_model(net, 4), INITIAL)


def test_a_late_update_is_refused_while_the_fold_is_at_work(world):
    net = collecting(world)
    first = net.contribute(1, net.sites[1].tasks[-1])
    net.contribute_all(2, 3)
    net.let_all_run()
    keep_alive(net, (1, 2, 3, 4), world.plan.document.deadlines.round_s + 10)
    assert len(net.jobs.waiting) == 2
    net.contribute_all(4)
    net.say(1, first)
    assert net.sites[4].receipts == [Reason.ROUND_CLOSED]
    assert net.sites[1].receipts == [None, Reason.DUPLICATE]
    assert len(net.jobs.waiting) == 2
    net.let_all_run()
    expected = INITIAL + np.float32(weighted(world, ("site-1", "site-2", "site-3")))
    np.testing.assert_allclose(next_model(net, 1), expected, rtol=1e-6)


def test_nothing_is_released_or_counted_after_a_stop_while_the_fold_is_at_work(world):
    net = collecting(world)
    net.contribute_all()
    net.perform(net.aggregator.stop(net.now))
    net.let_all_run()
    assert net.aggregator.state.value == "stopped"
    assert net.outcomes("contribution") == net.outcomes("round-committed") == []
    assert [site.receipts for site in net.sites.values()] == [[]] * 4
    assert release_name(world.plan.digest) not in net.store.blobs
    assert {site.closed.outcome for site in net.sites.values()} == {"stopped"}


def test_a_model_that_was_sealed_for_a_stopped_run_is_told_to_nobody_and_discarded(world):
    net = LaterNet(world)
    net.start()
    for index, member in enumerate(world.members):
        net.join(SimpleSite(world, member, has_initial=index == 0))
    net.let_run()
    net.perform(net.aggregator.stop(net.now))
    assert len(net.jobs.waiting) == 1
    net.let_all_run()
    assert net.outcomes("round-opened") == []
    assert not any(site.tasks for site in net.sites.values())
    assert net.store.blobs == {}


def test_members_are_admitted_and_answered_while_the_fold_is_at_work(world):
    net = collecting(world)
    net.contribute_all()
    back = net.join(SimpleSite(world, "site-4"))
    assert net.closed == {4: Reason.SUPERSEDED}
    assert net.sites[back].tasks == []
    net.let_all_run()
    assert net.sites[back].tasks[-1].round == 2


# --- lanes ------------------------------------------------------------------------------------------------------------


def sent(store: MemoryStore, member: str, seed: int, encoding: Encoding, odd: tuple[float, ...] = ()) -> Contribution:
    """A large update of a member, whose numbers differ by ten orders of magnitude; ``odd`` ones stand at its end."""
    rng = np.random.default_rng(seed)
    vector = rng.standard_normal(BIG, dtype=np.float32) * np.float32(10.0) ** rng.integers(-5, 5, BIG, dtype=np.int8)
    vector[len(vector) - len(odd) :] = odd
    header = BlobHeader(BlobKind.UPDATE, bytes(32), 1, member, bytes(32), BIG, encoding)
    key, signer, name = ContentKey.generate(), Ed25519PrivateKey.generate(), member.encode().ljust(16, b".")
    sealed = seal_vector(header, vector.astype(np.float32), key=key, signing_key=signer)
    store.write(name, header.sealed_bytes, [bytes(part) for part in sealed])
    return Contribution(member, 3 + seed, name, header, key, signer.public_key().public_bytes_raw())


def folded(contributions: list[Contribution], store: MemoryStore, lanes: int) -> np.ndarray:
    model, out = np.full(BIG, 0.1, dtype=np.float32), np.full(BIG, np.nan, dtype=np.float32)
    advance = Advance(None, 1, State(model), State(out))
    fold(contributions, store, terms=MEAN, advance=advance, jobs=Lanes(lanes))
    assert (model == np.float32(0.1)).all()
    return out


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.BFLOAT16])
def test_lanes_and_the_order_of_arrival_change_no_bit(encoding):
    store = MemoryStore()
    updates = [sent(store, name, seed, encoding) for seed, name in enumerate(("a", "a-longer-name", "c"))]
    one = folded(updates, store, 1)
    assert np.isfinite(one).all()
    for lanes in (2, 3, 7):
        assert folded(updates[::-1], store, lanes).tobytes() == one.tobytes()


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("place", [0.05, 0.5, 0.999])
def test_a_bad_piece_of_any_lane_names_its_member(lanes, place):
    store = MemoryStore()
    updates = [sent(store, name, seed, Encoding.FLOAT32) for seed, name in enumerate(("a", "b"))]
    blob = bytearray(store.blobs[updates[1].blob])
    blob[int(place * len(blob))] ^= 1
    store.blobs[updates[1].blob] = bytes(blob)
    with pytest.raises(ContributionLost) as caught:
        folded(updates, store, lanes)
    assert caught.value.member == "b"
    assert isinstance(caught.value.error, BlobError)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("values", [(np.nan, 0.0), (np.inf, -np.inf), (0.0, -np.inf)])
def test_an_update_that_is_not_finite_names_its_member_though_the_fold_looks_at_sums(values, lanes):
    store, encoding = MemoryStore(), Encoding.FLOAT32
    updates = [sent(store, name, 0, encoding, (value,)) for name, value in zip(("a", "b"), values, strict=True)]
    with pytest.raises(ContributionLost) as caught:
        folded([*updates, sent(store, "c", 1, encoding)], store, lanes)
    assert caught.value.member == ("a" if values[0] else "b")
    assert caught.value.error.reason is Reason.NON_FINITE


def test_a_sum_beyond_float32_is_nobodys_fault():
    store = MemoryStore()
    updates = [sent(store, name, 0, Encoding.FLOAT32, (3.4e38,)) for name in ("a", "b")]
    model, out = np.full(BIG, 3e38, dtype=np.float32), np.empty(BIG, dtype=np.float32)
    with pytest.raises(BlobError) as caught:
        fold(updates, store, terms=MEAN, advance=Advance(None, 1, State(model), State(out)), jobs=Lanes(2))
    assert caught.value.reason is Reason.NON_FINITE


def test_no_round_opens_while_the_release_is_sealed(world):
    """The last round is committed, and the run is not over yet: nobody is asked for one update more than was signed."""
    net, rounds = collecting(world), world.plan.document.rounds
    for number in range(1, rounds + 1):
        net.contribute_all()
        while len(net.outcomes("round-committed")) < number:
            net.let_run()
        if number < rounds:
            net.let_all_run()
    assert net.jobs.waiting  # the release
    net.pass_time(10)
    net.let_all_run()
    assert net.aggregator.state.value == "finished"
    assert [fields["round"] for fields in net.outcomes("round-opened")] == [1, 2]
    assert {len(site.tasks) for site in net.sites.values()} == {rounds}


def test_a_paused_run_opens_no_round_when_its_fold_comes_back(world):
    net = collecting(world)
    net.contribute_all()
    net.perform(net.aggregator.pause(net.now))
    net.let_all_run()
    assert len(net.outcomes("round-committed")) == 1
    assert len(net.outcomes("round-opened")) == 1


def test_a_round_that_is_being_sealed_as_a_pause_comes_opens_and_the_public_sees_a_paused_run(world):
    net = collecting(world)
    net.contribute_all()
    while not net.outcomes("round-committed"):
        net.let_run()
    assert net.jobs.waiting  # the sealing of the second round
    net.perform(net.aggregator.pause(net.now))
    net.let_all_run()
    told = [(name, fields.get("round")) for name, fields in net.events]
    assert told.index(("run-paused", None)) < told.index(("round-opened", 2))
    status = RunStatus("")
    for name, fields in net.events:
        status = status.after({"event": name, "ts": "2026-01-01T00:00:00Z", **fields})
    assert status.state is RunState.PAUSED
