"""A release as its recipients verify and open it, from a host's store. Trust zone: the developer's machine."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from simulations.hosts.consortium import Consortium
from simulations.hosts.store import MemoryStore
from trusted.blob import open_blob
from trusted.encoding import Vector
from trusted.release import VerifiedRelease, release_name, verify_release


def verified(world: Consortium, store: MemoryStore, now: datetime) -> VerifiedRelease:
    """The release of a run that is over.

    Raises:
        ProtocolError: it is not what this plan's aggregator released. KeyError: there is none.
    """
    return verify_release(store.blobs[release_name(world.plan.digest)], world.federation, now)


def opened(world: Consortium, store: MemoryStore, now: datetime, recipient: str | None = None) -> Vector:
    """The released model, float32[elements], as ``recipient`` (the plan's first) opens it.

    Raises:
        ProtocolError: it does not verify, or does not open. KeyError: there is none.
    """
    found, member = verified(world, store, now), recipient or world.plan.document.recipients[0]
    release = found.release
    pieces = open_blob(
        [store.blobs[release.blob]],
        expected=release.header(world.federation),
        key=found.open_key(member, world.sealing[member]),
        verify_key=release.verify_key,
    )
    return np.frombuffer(b"".join(pieces), dtype="<f4")
