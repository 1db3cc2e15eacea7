"""Links between sites and hosts: names, or figures. Trust zone: the developer's machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_FIGURES = re.compile(
    r"(?P<down>\d+(?:\.\d+)?)(?:/(?P<up>\d+(?:\.\d+)?))?(?P<unit>[kmg])bit(?:,(?P<delay>\d+(?:\.\d+)?)ms)?",
    re.IGNORECASE,
)
_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9}
_BITS = 8


@dataclass(frozen=True, slots=True)
class Link:
    """Bytes a second in each direction as the link's owner sees them, and the round trip in seconds."""

    down: float
    up: float
    round_trip_s: float


NAMED: Mapping[str, Link] = MappingProxyType(
    {
        "dsl": Link(50e6 / _BITS, 10e6 / _BITS, 0.03),
        "fibre": Link(500e6 / _BITS, 200e6 / _BITS, 0.02),
        "campus": Link(1e9 / _BITS, 1e9 / _BITS, 0.01),
        "cloud": Link(10e9 / _BITS, 10e9 / _BITS, 0.02),
        "datacentre": Link(25e9 / _BITS, 25e9 / _BITS, 0.0005),
    }
)


def read_link(text: str) -> Link:
    """A name of :data:`NAMED`, or figures: ``100mbit``, ``50/10mbit`` (down/up), ``1gbit,20ms`` (and the round trip).

    Raises:
        ValueError: neither; the message says what may be written.
    """
    if text in NAMED:
        return NAMED[text]
    found = _FIGURES.fullmatch(text)
    if found is None or not float(found["down"]) or not float(found["up"] or 1):
        raise ValueError(f"link {text!r}: one of {', '.join(NAMED)} expected, or figures such as 50/10mbit,30ms")
    unit = _UNITS[found["unit"].lower()] / _BITS
    down = float(found["down"]) * unit
    up = float(found["up"]) * unit if found["up"] else down
    return Link(down, up, float(found["delay"] or 0) / 1e3)
