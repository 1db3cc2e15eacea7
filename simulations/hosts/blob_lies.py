"""Lies about what is stored: altered, old, somebody else's. Trust zone: the developer's machine."""

from __future__ import annotations

import numpy as np

from simulations.hosts.believing import MEMBERS, Believing
from simulations.hosts.believing import VICTIM as VICTIM_ID
from simulations.hosts.consortium import Consortium
from simulations.hosts.host import flip
from simulations.hosts.lie import VICTIM, Lie, Told, begun, ended
from trusted.encoding import Vector
from trusted.errors import Reason

_OTHERS = (1, 2, 3)
_EXPONENT = np.uint32(0x7F000000)  # most bits of a float32's exponent: whatever it was, it is 1.7e38 or more


def _altered_believed(server: Believing) -> Vector:
    update = server.trained(VICTIM_ID)
    update.view(np.uint32)[0] |= _EXPONENT
    server.receive(VICTIM_ID, update)
    server.play(MEMBERS[:-1])
    return server.finish()


def _altered_told(world: Consortium) -> Told:
    host = begun(world)
    host.keep = lambda connection, sealed: flip(sealed) if connection == VICTIM else sealed
    host.contribute_all()
    host.keep = lambda connection, sealed: sealed
    return Told.by(ended(host))


def _old_believed(server: Believing) -> Vector:
    old = server.trained(VICTIM_ID)
    server.play()
    server.receive(VICTIM_ID, old)
    server.play(MEMBERS[:-1])
    return server.finish()


def _old_told(world: Consortium) -> Told:
    host, kept = begun(world), dict[int, bytes]()
    host.keep = lambda connection, sealed: kept.setdefault(connection, sealed) if connection == VICTIM else sealed
    host.contribute_all()
    return Told.by(ended(host))


def _anothers_believed(server: Believing) -> Vector:
    server.receive(VICTIM_ID, server.trained(MEMBERS[0]))
    server.play(MEMBERS[:-1])
    return server.finish()


def _anothers_told(world: Consortium) -> Told:
    host, seen = begun(world), list[bytes]()

    def keep(connection: int, sealed: bytes) -> bytes:
        seen.append(sealed)
        return seen[0] if connection == VICTIM else sealed

    host.keep = keep
    host.contribute_all()
    host.keep = lambda connection, sealed: sealed
    return Told.by(ended(host))


def _model_believed(server: Believing) -> Vector:
    """A model of the host's choice, to which the victim's answer tells what the host wants to know."""
    server.receive(VICTIM_ID, server.trained(VICTIM_ID, np.full_like(server.disk.model, -100)))
    server.play(MEMBERS[:-1])
    return server.finish()


def _model_told(world: Consortium) -> Told:
    host = begun(world)
    host.serve = lambda site, sealed: flip(sealed) if site.member == world.members[-1] else sealed
    return Told.by(ended(host))


def _late_swap_believed(server: Believing) -> Vector:
    server.play()
    server.disk.model[:] = 1000.0  # between two rounds, on the disk
    return server.finish()


def _late_swap_told(world: Consortium) -> Told:
    """The update was found good and counts; before the round is folded, something else lies in its place."""
    host = begun(world)
    host.contribute_all(_OTHERS)
    name = host.sites[1].tasks[-1].upload
    host.store.blobs[name] = flip(host.store.blobs[name])
    host.contribute_all((VICTIM,))
    return Told.by(ended(host))


BLOB_LIES = (
    Lie(
        "altered update",
        "it turns bits of a stored update",
        "those of one exponent, and the model is the host's",
        "the piece does not open, and the update does not count",
        frozenset({Reason.BLOB_OPEN}),
        _altered_believed,
        _altered_told,
    ),
    Lie(
        "old update",
        "it stores a site's first update in the place of its second",
        "an old update counts in a newer round",
        "header and signature are bound to the round",
        frozenset({Reason.BLOB_ROUND}),
        _old_believed,
        _old_told,
    ),
    Lie(
        "another's update",
        "it stores one site's update in the place of another's",
        "one site counts twice, and the other never",
        "header and signature are bound to the sender",
        frozenset({Reason.BLOB_SENDER}),
        _anothers_believed,
        _anothers_told,
    ),
    Lie(
        "altered model",
        "it serves one site another model than the others",
        "the site trains what the host made, and its update tells what the host wants to know of its data",
        "the worker opens no model but the one that the aggregator sealed, and says so",
        frozenset({Reason.BLOB_OPEN}),
        _model_believed,
        _model_told,
    ),
    Lie(
        "swapped after the check",
        "it alters what was checked before it is used",
        "what was found good is not what counts",
        "the fold opens every piece again, and leaves out what is another",
        frozenset({Reason.BLOB_OPEN}),
        _late_swap_believed,
        _late_swap_told,
    ),
)
