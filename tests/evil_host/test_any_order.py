"""A host that calls the aggregator in any order, with anything: nothing raises, leaks or counts wrongly."""

from __future__ import annotations

from functools import partial

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coordinator.enclave.aggregator import Aggregator
from tests.evil_host.hosts import Host, flip, joined
from tests.world import INITIAL, SimpleSite, World
from trusted.channel.states import Kind, State
from trusted.errors import Reason
from trusted.release import release_name
from trusted.wire import pack

CONNECTIONS = st.integers(1, 8)  # the members of a gathered run have 1 to 4
PLACES = st.integers(0, 40)
GARBAGE = st.one_of(
    st.binary(max_size=60),
    st.builds(pack, st.sampled_from([kind.value for kind in Kind]), st.binary(max_size=40)),
    st.builds(lambda number: pack(Kind.REFUSE.value, number.to_bytes(2, "big")), st.integers(0, 999)),
)
UPDATE = {"type": "update", "round": 1, "blob": "00" * 16, "key": "00" * 32, "prefix_sha256": "00" * 32}
UPDATE |= {"weight": 1, "metrics": {}}


class AnyOrder(RuleBasedStateMachine):
    """Every method of ``Aggregator`` at any time, real members among the noise, and a store that cannot be trusted."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.host = Host(world)

    @initialize(gathered=st.sampled_from([True, True, False]))
    def begin(self, gathered: bool) -> None:
        if gathered:
            joined(self.host, automatic=False)

    # --- what only a host can do ------------------------------------------------------------------------------------

    @rule(connection=CONNECTIONS)
    def attach(self, connection: int) -> None:
        self.host.perform(self.host.aggregator.attach(connection, self.host.now))

    @rule(connection=CONNECTIONS)
    def detach(self, connection: int) -> None:
        self.host.perform(self.host.aggregator.detach(connection, self.host.now))

    @rule(connection=CONNECTIONS, frame=GARBAGE)
    def deliver_garbage(self, connection: int, frame: bytes) -> None:
        self.host.perform(self.host.aggregator.receive(connection, frame, self.host.now))

    @rule()
    def everybody_contributes(self) -> None:
        for connection in list(self.host.sites):
            self.contribute(connection, 10)

    @rule(connection=CONNECTIONS, source=CONNECTIONS, place=PLACES)
    def replay_anywhere(self, connection: int, source: int, place: int) -> None:
        frames = self.host.sent_up.get(source, [])
        if frames:
            self.deliver_garbage(connection, frames[place % len(frames)])

    @rule()
    def start(self) -> None:
        self.host.start()

    @rule()
    def restart(self) -> None:
        """Another aggregator takes over; all sessions are gone, and members come back with what they remember."""
        if self.host.aggregator.state.value in {"finished", "stopped"}:
            return
        self.host.aggregator = Aggregator(self.world.federation, self.world.identity("aggregator"), self.host.store)
        self.host.start()
        old, self.host.sites = self.host.sites, {}
        self.host.due.clear()
        for connection, site in old.items():
            back = SimpleSite(self.world, site.member, has_initial=site.has_initial)
            back.participant, back.automatic = site.participant, site.automatic
            self.host.sites[connection] = back
            self.attach(connection)
            self.host.up(connection, back.channel.begin())

    @precondition(lambda self: len(self.host.events) > 12)
    @rule(really=st.integers(0, 9))
    def stop(self, really: int) -> None:
        if really == 0:  # rarely, for little happens afterwards
            self.host.perform(self.host.aggregator.stop(self.host.now))

    @rule(seconds=st.sampled_from([-60, 0, 1, 2, 3, 5, 10, 30, 61, 130, 601]))
    def pass_time(self, seconds: int) -> None:
        self.host.pass_time(seconds)

    @rule(place=PLACES, other=PLACES, how=st.sampled_from(["flip", "cut", "forget", "swap"]))
    def tamper(self, place: int, other: int, how: str) -> None:
        blobs, release = self.host.store.blobs, release_name(self.world.plan.digest)
        names = [name for name in blobs if blobs[name] and name != release]
        if not names:
            return
        name, second = names[place % len(names)], names[other % len(names)]
        if how == "forget":
            self.host.serve = lambda site, sealed: sealed[:10]
        elif how == "swap":
            blobs[name], blobs[second] = blobs[second], blobs[name]
        else:
            blobs[name] = flip(blobs[name]) if how == "flip" else blobs[name][: len(blobs[name]) // 2]

    # --- what members do --------------------------------------------------------------------------------------------

    @rule(member=st.integers(0, 3), connection=CONNECTIONS, automatic=st.booleans())
    def join(self, member: int, connection: int, automatic: bool) -> None:
        site = SimpleSite(self.world, self.world.members[member], has_initial=member < 2)
        site.automatic = automatic
        self.host.sites[connection] = site
        self.attach(connection)
        self.host.up(connection, site.channel.begin())

    @rule(connection=st.integers(1, 4), weight=st.sampled_from([0, 1, 10, 100, 1000, 1001]))
    def contribute(self, connection: int, weight: int) -> None:
        site = self.host.sites.get(connection)
        if site is None or not site.tasks or site.channel.state is not State.OPEN:
            return
        if site.tasks[-1].model_blob in self.host.store.blobs:
            self.host.contribute(connection, site.tasks[-1], weight=weight)

    @rule(
        connection=CONNECTIONS,
        message=st.sampled_from(
            [
                {"type": "ready", "has_initial": True, "promised": None},
                {"type": "ready", "has_initial": True, "promised": {"number": 9, "boot": "00" * 16}},
                {"type": "ready", "has_initial": False, "promised": {"number": (1 << 31) - 1, "boot": "00" * 16}},
                {"type": "promised", "number": 1, "record": None, "recovery_key": None},
                {"type": "promised", "number": 1, "record": None, "recovery_key": "00" * 32},
                {"type": "promised", "number": 10, "record": "00", "recovery_key": None},
                {"type": "cosigned", "size": 1, "signature": "00" * 72},
                {"type": "cosigned", "size": 6, "signature": "00" * 72},
                {"type": "cosigned", "size": 1 << 39, "signature": "00" * 72},
                {"type": "initial", "blob": "00" * 16, "key": "00" * 32},
                UPDATE,
                {"type": "failed", "round": 1, "reason": int(Reason.APP_FAILED)},
                {"type": "failed", "round": 1, "reason": 999},
                {"type": "evidence", "nonce": "00" * 32, "evidence": "00"},
                {"type": "task"},
                {},
            ]
        ),
    )
    def say(self, connection: int, message: dict[str, object]) -> None:
        if connection in self.host.sites:
            self.host.say(connection, message)

    # --- what holds whatever happened -------------------------------------------------------------------------------

    @invariant()
    def the_model_never_stands_in_what_the_host_holds(self) -> None:
        shown = (*self.host.store.blobs.values(), *(frame for sent in self.host.sent_down.values() for frame in sent))
        assert not any(INITIAL.tobytes()[:64] in data for data in shown)

    @invariant()
    def nothing_is_released_before_every_round_was_committed(self) -> None:
        committed = {
            fields["outcome"] for fields in self.host.outcomes("round-committed")
        }  # which of the plan's rounds
        released = release_name(self.world.plan.digest) in self.host.store.blobs
        assert len(committed) <= self.world.plan.document.rounds
        assert not released or len(committed) == self.world.plan.document.rounds  # it waits for a quorum of witnesses
        assert released == (self.host.aggregator.state.value == "finished")

    @invariant()
    def every_committed_round_holds_the_minimum(self) -> None:
        for fields in self.host.outcomes("round-committed"):
            told = [event for event in self.host.outcomes("contribution") if event["round"] == fields["round"]]
            counted = {event["member"] for event in told if event["outcome"] == "counted"}
            lost = {event["member"] for event in told if event["outcome"] == "lost"}
            assert len(counted - lost) >= self.world.plan.document.cohort.minimum


def test_no_order_of_calls_raises_or_releases_or_commits_under_the_minimum(world: World) -> None:
    run_state_machine_as_test(
        partial(AnyOrder, world),  # type: ignore[arg-type]  # anything that makes a machine will do
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
