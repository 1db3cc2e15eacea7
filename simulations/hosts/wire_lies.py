"""Lies about what was sent: again, never, later, in another order. Trust zone: the developer's machine."""

from __future__ import annotations

from simulations.hosts.believing import MEMBERS, Believing
from simulations.hosts.believing import VICTIM as VICTIM_ID
from simulations.hosts.consortium import Consortium
from simulations.hosts.host import pass_on
from simulations.hosts.lie import VICTIM, Lie, Told, begun, ended
from trusted.encoding import Vector
from trusted.errors import Reason

_OTHERS = (1, 2, 3)


def _replay_believed(server: Believing) -> Vector:
    update = server.trained(VICTIM_ID)
    for _ in range(10):
        server.receive(VICTIM_ID, update)
    return server.finish()


def _replay_told(world: Consortium) -> Told:
    host = begun(world)
    host.contribute_all((VICTIM,))
    host.perform(host.aggregator.receive(VICTIM, host.sent_up[VICTIM][-1], host.now))
    host.come_back(VICTIM)
    return Told.by(ended(host))


def _drop_believed(server: Believing) -> Vector:
    server.play(MEMBERS[:-1])
    return server.finish()


def _drop_told(world: Consortium) -> Told:
    host = begun(world)
    host.attack_up = lambda connection, frame: [] if connection == VICTIM else [frame]
    host.contribute_all((VICTIM,))
    host.attack_up = pass_on
    host.contribute_all(_OTHERS)
    host.run_on(10)  # until the next challenge, whose answer shows the gap
    return Told.by(ended(host))


def _delay_believed(server: Believing) -> Vector:
    late = server.trained(VICTIM_ID)
    server.play(MEMBERS[:-1])
    server.receive(VICTIM_ID, late)  # counts in the second round, beside the victim's own of that round
    return server.finish()


def _delay_told(world: Consortium) -> Told:
    """All that the victim says is held back until its round is over."""
    host, held = begun(world), list[bytes]()

    def hold(connection: int, frame: bytes) -> list[bytes]:
        if connection != VICTIM:
            return [frame]
        held.append(frame)
        return []

    host.attack_up = hold
    host.contribute_all((VICTIM,))
    host.contribute_all(_OTHERS)
    host.run_on(20)
    host.attack_up = pass_on
    for frame in held:
        host.perform(host.aggregator.receive(VICTIM, frame, host.now))
    return Told.by(ended(host))


def _reorder_believed(server: Believing) -> Vector:
    """The update of the second round, which the host had the victim train early, comes before that of the first."""
    early = server.trained(VICTIM_ID, server.disk.model + 1)
    server.receive(VICTIM_ID, early)
    server.play(MEMBERS[:-1])
    return server.finish()


def _reorder_told(world: Consortium) -> Told:
    host = begun(world)
    session = host.sites[VICTIM].channel.session
    frames = [session.send({"type": "progress", "round": 1, "stage": "train", "percent": at}) for at in (10, 20)]
    for frame in reversed(frames):
        host.perform(host.aggregator.receive(VICTIM, frame, host.now))
    host.come_back(VICTIM)
    return Told.by(ended(host))


WIRE_LIES = (
    Lie(
        "replay",
        "it delivers an update again",
        "one site counts as often as the host likes",
        "records are numbered: the copy ends the session, and what was counted counts once",
        frozenset({Reason.RECORD}),
        _replay_believed,
        _replay_told,
    ),
    Lie(
        "drop",
        "it loses a site's update, and nothing else",
        "the host chooses whose data counts, and nobody can tell it from a site that was slow",
        "the next record shows the gap; the site sees that no log which it cosigned holds its contribution",
        frozenset({Reason.RECORD}),
        _drop_believed,
        _drop_told,
    ),
    Lie(
        "delay",
        "it holds a site's update back until the round is over",
        "an old update counts in a newer round",
        "whoever is silent for a lease is not waited for, and what it said then is not heard any more",
        frozenset({Reason.LEASE_EXPIRED}),
        _delay_believed,
        _delay_told,
    ),
    Lie(
        "reorder",
        "it delivers messages in another order",
        "what is meant for one moment counts at another",
        "records are numbered: the first that is not the next ends the session",
        frozenset({Reason.RECORD}),
        _reorder_believed,
        _reorder_told,
    ),
)
