"""Where the initial model comes from: asked of those that hold it, read whole, and under names of its own."""

from __future__ import annotations

import numpy as np

from tests.enclave.runs import manual, task
from tests.world import INITIAL, Net, SimpleSite
from trusted.channel.worker import WorkerChannel
from trusted.errors import Reason
from worker.participant import SendInitial


def test_initial_model_other_than_the_plans_is_refused(world, monkeypatch):
    net = Net(world)
    net.start()
    monkeypatch.setattr(world, "initial", INITIAL + np.float32(1))
    for index, member in enumerate(world.members):
        net.join(SimpleSite(world, member, has_initial=index == 0))
    assert net.closed == {1: Reason.INITIAL_MODEL}


def test_a_site_that_cannot_send_the_initial_model_loses_no_round(world):
    net = manual(world)
    net.say(1, {"type": "failed", "round": 0, "reason": int(Reason.INITIAL_MODEL)})
    assert net.closed == {}
    for connection in (1, 2, 3, 4):
        net.contribute(connection, task(net, connection))
    assert {fields["outcome"] for fields in net.outcomes("contribution")} == {"counted"}


class Holders(Net):
    """Sites that are asked for the initial model, and send none unless a test lets them."""

    def act(self, connection, action):
        if isinstance(action, SendInitial):
            self.asked.setdefault(connection, []).append(action.blob)
        else:
            super().act(connection, action)

    def holder(self, member: str) -> tuple[int, bytes]:
        self.asked = getattr(self, "asked", {})
        connection = self.join(SimpleSite(self.world, member, has_initial=True))
        return connection, self.asked[connection][-1]


def holders(world) -> Holders:
    """A run with a quorum of witnesses that hold no model."""
    net = Holders(world)
    net.start()
    for member in world.members[1:]:
        net.join(SimpleSite(world, member))
    return net


def test_the_same_start_of_a_worker_is_asked_for_the_initial_model_under_the_same_name(world):
    net = holders(world)
    connection, name = net.holder("site-1")
    site = net.sites[connection]
    net.perform(net.aggregator.detach(connection, net.now))
    site.channel = WorkerChannel(world.federation, site.identity, world.membership("site-1"))
    again = net.join(site)
    assert net.asked[again] == [name]


def test_another_start_of_it_which_seals_anew_gets_another_name_and_the_first_is_discarded(world):
    net = holders(world)
    _, name = net.holder("site-1")
    net.store.blobs[name] = b"half of it"
    _, other = net.holder("site-1")
    assert other != name
    assert name not in net.store.blobs


def test_a_name_whose_bytes_do_not_open_is_not_used_again(world):
    net = holders(world)
    connection, name = net.holder("site-1")
    site = net.sites[connection]
    net.store.blobs[name] = b"what another key sealed"
    net.say(connection, {"type": "initial", "blob": name.hex(), "key": bytes(32).hex()})
    assert site.error is not None
    site.error, site.channel = None, WorkerChannel(world.federation, site.identity, world.membership("site-1"))
    again = net.join(site)
    assert net.asked[again] != [name]
    assert name not in net.store.blobs
