"""Who trains in a round, drawn from the run's seed (docs/protocol.md §13.3). Trust zone: every TEE, consoles, auditors.

The seed is secret while the run lasts, so a host cannot foresee a cohort, and fixed, so it cannot have one drawn again
until it likes it. The log holds a commitment from the beginning and the seed at the end: then anybody can draw every
cohort again.
"""

from __future__ import annotations

import heapq
import hmac
from collections.abc import Iterable

from trusted.wire import length_prefixed, pack, sha256


def commitment(seed: bytes) -> bytes:
    """What the first leaf of the log says of the seed, 32 bytes."""
    return sha256(pack("cloister/sampling-seed/v1", seed))


def drawn(seed: bytes, number: int, present: Iterable[str], size: int) -> tuple[str, ...]:
    """``size`` of the members that are ``present`` when round ``number`` opens, or all, by id: the lowest lots win."""
    prefix = pack("cloister/cohort/v1", number.to_bytes(4, "big"))  # of thousands of members it is made once
    lots = ((_lot(seed, prefix, member.encode()), member) for member in present)
    return tuple(sorted(member for _, member in heapq.nsmallest(size, lots)))


def lot(seed: bytes, label: str, number: int, *fields: bytes) -> bytes:
    """What the seed says of ``fields`` in round ``number``, 32 bytes."""
    return _lot(seed, pack(label, number.to_bytes(4, "big")), *fields)


def _lot(seed: bytes, prefix: bytes, *fields: bytes) -> bytes:
    return hmac.digest(seed, prefix + length_prefixed(*fields), "sha256")
