"""Genuine and less genuine machines in other places than their own: each is refused, and the run goes on without it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from coordinator.enclave.aggregator import Aggregator
from tests.evil_host.hosts import VICTIM, Host, another_plan, counted, finished, joined
from tests.world import AGGREGATOR_MEASUREMENT, NOW, WORKER_MEASUREMENT, SimpleSite, World
from trusted.attestation.composite import EvidenceBundle
from trusted.attestation.evidence import Evidence
from trusted.channel.aggregator import AggregatorChannel
from trusted.channel.session import Identity
from trusted.channel.states import State
from trusted.channel.worker import WorkerChannel
from trusted.errors import ProtocolError, Reason
from trusted.hpke import SealingKey
from trusted.wire import label_of, pack, unpack

OFFER = "cloister/offer/v1"
OFFER_FIELDS = ("evidence", "kem_a", "verify_a", "nonce_a", "boot_a")


@dataclass(frozen=True)
class Relay:
    """A process outside any TEE that shows evidence which a genuine enclave made for something else."""

    evidence_of_another: Evidence

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        return ()

    def evidence(self, report_data: bytes) -> Evidence:
        return self.evidence_of_another


def refuses(channel: WorkerChannel | AggregatorChannel, frame: bytes) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        channel.receive(frame, NOW)
    assert channel.state is State.CLOSED
    return caught.value.reason


@pytest.mark.parametrize(
    "measurement",
    [b"\x11" * 48, WORKER_MEASUREMENT, bytes(48)],
    ids=["code that skips verification", "a worker's code", "none"],
)
def test_a_genuine_tee_with_other_code_is_no_aggregator(world: World, measurement: bytes) -> None:
    """Patched so that it verifies nobody, it has another measurement, and every worker says hello and no more."""
    host = Host(world)
    host.aggregator = Aggregator(world.federation, world.identity("aggregator", measurement=measurement), host.store)
    joined(host)
    for connection in host.sites:
        assert host.refused_by(connection) is Reason.MEASUREMENT
        assert [label_of(frame) for frame in host.sent_up[connection]] == ["cloister/hello/v1", "cloister/refuse/v1"]
    assert host.store.blobs == {}
    assert host.outcomes("admitted") == []


def test_members_that_met_an_impostor_go_on_with_the_real_aggregator(world: World) -> None:
    host = Host(world)
    real = host.aggregator
    host.aggregator = Aggregator(world.federation, world.identity("aggregator", measurement=b"\x11" * 48), host.store)
    host.join(SimpleSite(world, "site-1", has_initial=True))
    host.aggregator = real
    assert counted(finished(joined(host))) == [set(world.members)] * 2


@pytest.mark.parametrize(
    "measurement",
    [b"\x11" * 48, AGGREGATOR_MEASUREMENT],
    ids=["code that skips verification", "an aggregator's code"],
)
def test_a_genuine_tee_with_other_code_is_no_worker_and_the_others_finish(world: World, measurement: bytes) -> None:
    host = joined(Host(world), ("site-1", "site-2", "site-3"))
    host.join(SimpleSite(world, "site-4", measurement=measurement))
    assert host.closed == {VICTIM: Reason.MEASUREMENT}
    assert counted(finished(host)) == [{"site-1", "site-2", "site-3"}] * 2


def test_relayed_evidence_does_not_make_an_aggregator(world: World) -> None:
    """Genuine evidence of an admitted aggregator, shown by a process that holds keys of its own."""
    genuine = AggregatorChannel(world.federation, world.identity("aggregator"), NOW)
    bystander, victim = world.worker_channel("site-1"), world.worker_channel("site-1")
    (offer,) = genuine.receive(bystander.begin(), NOW).replies
    evidence = EvidenceBundle.decode(unpack(offer, OFFER, 5)[0]).cpu
    impostor = AggregatorChannel(world.federation, Identity.generate(Relay(evidence)), NOW)
    (forged,) = impostor.receive(victim.begin(), NOW).replies
    assert refuses(victim, forged) is Reason.REPORT_DATA


def test_relayed_evidence_does_not_make_a_worker(world: World) -> None:
    """A member's own host shows evidence that its genuine worker once gave, in front of another key."""
    identity = world.identity("worker")
    once = identity.provider.evidence(bytes(64))
    relay = WorkerChannel(world.federation, Identity.generate(Relay(once)), world.membership("site-4"))
    aggregator = AggregatorChannel(world.federation, world.identity("aggregator"), NOW)
    (offer,) = aggregator.receive(relay.begin(), NOW).replies
    (join,) = relay.receive(offer, NOW).replies
    assert refuses(aggregator, join) is Reason.REPORT_DATA


class TwoHandshakes:
    """A man in the middle: he answers the worker as an aggregator, and asks the real one as a worker."""

    def __init__(self, world: World) -> None:
        self.worker = world.worker_channel("site-1")
        self.aggregator = AggregatorChannel(world.federation, world.identity("aggregator"), NOW)
        self.hello = self.worker.begin()
        (self.genuine,) = self.aggregator.receive(self.hello, NOW).replies
        mine = AggregatorChannel(world.federation, Identity.generate(world.provider("aggregator")), NOW)
        (second,) = mine.receive(self.hello, NOW).replies
        self.fields = dict(zip(OFFER_FIELDS, unpack(self.genuine, OFFER, 5), strict=True))
        self.others = dict(zip(OFFER_FIELDS, unpack(second, OFFER, 5), strict=True))

    def offer(self, **changes: bytes) -> bytes:
        return pack(OFFER, *(self.fields | changes).values())


@pytest.mark.parametrize("field", OFFER_FIELDS)
def test_every_field_of_an_offer_is_bound_by_its_evidence(world: World, field: str) -> None:
    """Each field, alone, exchanged for the same field of a second genuine offer to the very same hello."""
    middle = TwoHandshakes(world)
    forged = middle.offer(**{field: middle.others[field]})
    assert refuses(middle.worker, forged) is Reason.REPORT_DATA


def test_the_man_in_the_middle_with_his_own_keys_learns_nothing(world: World) -> None:
    """He takes the worker's side with a key of his own; the worker says nothing after its hello."""
    middle, his = TwoHandshakes(world), SealingKey.generate()
    assert refuses(middle.worker, middle.offer(kem_a=his.public)) is Reason.REPORT_DATA


def test_the_man_in_the_middle_who_passes_the_offer_on_can_only_pass_the_join_on(world: World) -> None:
    """The join opens for the proved key alone; sealed again by him it names other frames, and is refused."""
    middle, his = TwoHandshakes(world), SealingKey.generate()
    (join,) = middle.worker.receive(middle.genuine, NOW).replies
    (sealed,) = unpack(join, "cloister/join/v1", 1)
    with pytest.raises(ProtocolError) as caught:
        his.open(sealed, b"join")
    assert caught.value.reason is Reason.OPEN_FAILED
    (welcome,) = middle.aggregator.receive(join, NOW).replies
    middle.worker.receive(welcome, NOW)
    frame = middle.worker.session.send({"type": "ready", "has_initial": False})
    middle.aggregator.receive(frame, NOW)
    assert middle.aggregator.peer.member == "site-1"


def test_the_man_in_the_middle_with_a_genuine_worker_and_a_stolen_credential_is_refused(world: World) -> None:
    """Attestation alone admits nobody: the credential's key is still missing."""
    stolen, own = world.membership("site-1"), world.membership("site-4")
    membership = type(stolen)(stolen.credential, own.worker_key, stolen.commitment)
    worker = WorkerChannel(world.federation, world.identity("worker"), membership)
    aggregator = AggregatorChannel(world.federation, world.identity("aggregator"), NOW)
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    (join,) = worker.receive(offer, NOW).replies
    assert refuses(aggregator, join) is Reason.PEER_SIGNATURE


def test_a_worker_of_one_plan_is_refused_at_the_aggregator_of_another(world: World) -> None:
    other = another_plan(world)
    host = joined(Host(world), ("site-1", "site-2", "site-3"))
    host.join(SimpleSite(other, "site-4"))
    assert host.closed == {VICTIM: Reason.WRONG_PLAN}
    assert counted(finished(host)) == [{"site-1", "site-2", "site-3"}] * 2


def test_a_hello_rewritten_to_name_another_plan_does_not_pass_the_worker(world: World) -> None:
    """The host leads a worker of plan A to plan B's aggregator, and changes the hello so that it is let in."""
    other = another_plan(world)
    host = Host(world)

    def name_the_other_plan(connection: int, frame: bytes) -> list[bytes]:
        if connection != VICTIM or label_of(frame) != "cloister/hello/v1":
            return [frame]
        nonce, charter, _ = unpack(frame, "cloister/hello/v1", 3)
        return [pack("cloister/hello/v1", nonce, charter, world.plan.digest)]

    host.attack_up = name_the_other_plan
    joined(host, ("site-1", "site-2", "site-3"))
    host.join(SimpleSite(other, "site-4"))
    assert host.refused_by(VICTIM) is Reason.REPORT_DATA
    assert counted(finished(host)) == [{"site-1", "site-2", "site-3"}] * 2


def test_a_worker_launched_for_another_plan_is_refused(world: World) -> None:
    """Genuine code with the right words, but the platform says that it was started for something else."""
    other = another_plan(world)
    host = joined(Host(world), ("site-1", "site-2", "site-3"))
    host.join(SimpleSite(world, "site-4", plan=other.plan))
    assert host.closed == {VICTIM: Reason.HOST_DATA}
    assert counted(finished(host)) == [{"site-1", "site-2", "site-3"}] * 2


def test_an_aggregator_launched_for_another_plan_is_refused(world: World) -> None:
    host = Host(world)
    identity = world.identity("aggregator", plan=another_plan(world).plan)
    host.aggregator = Aggregator(world.federation, identity, host.store)
    joined(host)
    assert {host.refused_by(connection) for connection in host.sites} == {Reason.HOST_DATA}


def test_living_workers_do_not_repeat_rounds_for_a_restarted_aggregator(world: World) -> None:
    """A host that starts a run again from its beginning, to take differences, gets no second update of a round.

    The workers tell the new aggregator of the run that was; without its state nothing begins, however long it waits.
    """
    first = joined(Host(world), automatic=False)
    for connection in first.sites:
        first.contribute(connection, first.sites[connection].tasks[-1])
    assert {site.tasks[-1].round for site in first.sites.values()} == {2}
    second = Host(world)
    second.start()
    for index, old in enumerate(first.sites.values()):
        site = SimpleSite(world, old.member, has_initial=index == 0)
        site.participant = old.participant
        second.join(site)
    for _ in range(30):
        second.pass_time(10)
    assert {fields["reason"] for fields in second.outcomes("state-refused")} == {Reason.STATE_MISSING.code}
    assert second.outcomes("round-opened") == []
    assert second.outcomes("contribution") == []
    assert second.outcomes("round-committed") == []
