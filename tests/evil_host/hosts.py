"""What the tests of a lying host share: a run that began, a run that ended, and what came of it."""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np

from simulations.hosts.host import Host, flip
from tests.world import NOW, Net, SimpleSite, World
from trusted.channel.federation import Federation
from trusted.release import VerifiedRelease, release_name, verify_release

__all__ = ["VICTIM", "Host", "another_plan", "counted", "everybody_but", "finished", "flip", "joined", "open_release"]

VICTIM = 4  # the connection of the last member to join; the first one holds the initial model
AnyHost = TypeVar("AnyHost", bound=Net)


def joined(host: AnyHost, members: tuple[str, ...] | None = None, *, automatic: bool = True) -> AnyHost:
    """``host`` after its run was started and ``members`` joined, in order; the first holds the initial model."""
    host.start()
    for index, member in enumerate(members or host.world.members):
        site = SimpleSite(host.world, member, has_initial=index == 0)
        site.automatic = automatic
        host.join(site)
    return host


def finished(host: Net) -> VerifiedRelease:
    """The release of a run that goes on while time passes; fails if it does not come to its end."""
    for _ in range(80):
        if host.aggregator.state.value == "finished":
            break
        host.pass_time(10)
    assert host.aggregator.state.value == "finished"
    return verify_release(host.store.blobs[release_name(host.world.plan.digest)], host.world.federation, NOW)


def counted(verified: VerifiedRelease) -> list[set[str]]:
    """Whose contributions each round holds."""
    return [set(members) for _, members in verified.release.contributions]


def everybody_but(host: Host, connection: int) -> set[str]:
    """The members that an attack on one connection must not touch."""
    return set(host.world.members) - {host.sites[connection].member}


def another_plan(world: World, name: str = "another plan") -> World:
    """The same members, keys and charter with a second plan."""
    other = copy.copy(world)
    other.plan = world.make_plan(name=name)
    other.federation = Federation(world.charter, other.plan)
    return other


def open_release(host: Host, verified: VerifiedRelease, recipient: str = "site-1") -> np.ndarray:
    """The released model, as ``recipient`` opens it."""
    return host.opened(recipient)
