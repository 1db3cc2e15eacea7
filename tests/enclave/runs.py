"""Whole runs in memory, as tests begin and watch them."""

from __future__ import annotations

import numpy as np

from tests.world import NOW, Net, SimpleSite, World
from trusted.blob import open_blob
from trusted.release import release_name, verify_release


def running(world: World, members: tuple[str, ...] | None = None, net: Net | None = None) -> Net:
    """A run that was started and whose members have all joined; the first holds the initial model."""
    net = net or Net(world)
    net.start()
    for index, member in enumerate(members or world.members):
        net.join(SimpleSite(world, member, has_initial=index == 0))
    return net


def released_model(world: World, net: Net, recipient: str) -> np.ndarray:
    verified = verify_release(net.store.blobs[release_name(world.plan.digest)], world.federation, NOW)
    key = verified.open_key(recipient, world.sealing[recipient])
    release = verified.release
    opened = open_blob(
        [net.store.blobs[release.blob]],
        expected=release.header(world.federation),
        key=key,
        verify_key=release.verify_key,
    )
    return np.frombuffer(b"".join(opened), dtype="<f4")


def weighted(world: World, members: tuple[str, ...]) -> float:
    """What one round of SimpleSite's formula adds to every element."""
    places = [world.members.index(member) for member in members]
    weights = [10 * (1 + place) for place in places]
    return sum(w * 0.25 * (1 + place) for w, place in zip(weights, places, strict=True)) / sum(weights)


class Manual(Net):
    """Sites get their tasks and wait for the test."""

    def join(self, site: SimpleSite) -> int:
        site.automatic = False
        return super().join(site)


def manual(world: World) -> Manual:
    net = Manual(world)
    running(world, net=net)
    return net


def task(net: Net, connection: int):
    return net.sites[connection].tasks[-1]


def keep_alive(net: Net, connections: tuple[int, ...], seconds: int) -> None:
    """Time passes while these members answer challenges, as living workers do."""
    for _ in range(seconds // 10):
        net.pass_time(10)
