"""What goes wrong, drawn from a seed: the same seed and number draw the same schedule.

Most schedules come from an undisturbed run that was counted: every point that a process passed is a moment to die at,
and every message that crossed a relay is one to cut at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from tests.faults.clocks import Jump
from tests.faults.crash_points import Moment
from tests.faults.relay import Deed, Link, Tampering, Way

_KINDS = ("one", "one", "one", "one", "pair", "all", "cut", "cut", "frames", "again", "disk", "clock")
_MANY = 12  # of a point that is passed often, so many moments are candidates
YEAR = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Crash:
    """``process`` dies at ``moment`` of its life ``life`` (1 and up), and ``together`` with it; each comes back."""

    process: str
    moment: Moment
    life: int = 1
    together: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DiskFull:
    """The host's files may grow to ``limit_bytes`` and no further, from event ``at_event`` on, for ``for_s``."""

    at_event: int
    limit_bytes: int
    for_s: float


@dataclass(frozen=True, slots=True)
class ClockJump:
    """The clock of ``process`` jumps."""

    process: str
    jump: Jump


Fault = Crash | DiskFull | ClockJump | Tampering


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that goes wrong in one run. ``pauses_s``: until a process that died is started again, one after the other."""

    seed: str
    number: int
    kind: str
    faults: tuple[Fault, ...]
    pauses_s: tuple[float, ...] = (0.1,)


@dataclass(frozen=True, slots=True)
class Counted:
    """An undisturbed run: how often each process passed each point, and how many messages crossed each way."""

    points: Mapping[str, Mapping[str, int]]
    messages: Mapping[tuple[Link, Way], int]
    events: int

    def moments(self) -> list[tuple[str, Moment]]:
        """Every candidate, always in the same order."""
        found = []
        for process in sorted(self.points):
            for point, count in sorted(self.points[process].items()):
                chosen = {1 + (count - 1) * place // (_MANY - 1) for place in range(_MANY)}
                found += [(process, Moment(point, nth)) for nth in sorted(chosen)]
        return found


UNDISTURBED = Schedule("-", 0, "undisturbed", ())


def draw(seed: str, number: int, counted: Counted) -> Schedule:
    """Schedule ``number`` (0 and up) of ``seed``."""
    rng = Random(f"{seed}/{number}")
    moments = counted.moments()
    order = Random(seed).sample(range(len(moments)), len(moments))
    process, moment = moments[order[number % len(order)]]  # so many schedules pass every moment once
    kind = _KINDS[rng.randrange(len(_KINDS))]
    others = [name for name in sorted(counted.points) if name != process]
    pauses = tuple(round(rng.choice((0.0, 0.05, 0.2, 0.6)) * (0.5 + rng.random()), 3) for _ in range(8))
    faults: tuple[Fault, ...]
    if kind == "pair":
        faults = (Crash(process, moment, together=(rng.choice(others),)),)
    elif kind == "all":
        faults = (Crash(process, moment, together=tuple(others)),)
    elif kind == "again":  # and once more, wherever its next life is by then
        again = Moment(moment.point, rng.randint(1, max(1, moment.nth)))
        faults = (Crash(process, moment), Crash(process, again, life=2))
    elif kind == "cut":
        faults = tuple(_tampering(rng, counted, tuple(Link), _CUTS) for _ in range(rng.randint(1, 3)))
    elif kind == "frames":
        faults = tuple(_tampering(rng, counted, (Link.DOOR,), _FRAME_DEEDS) for _ in range(rng.randint(1, 2)))
    elif kind == "disk":
        limit = rng.choice((0, 4096, 40_000, 100_000))
        faults = (DiskFull(rng.randrange(counted.events), limit, round(rng.uniform(0.3, 2.5), 2)),)
    elif kind == "clock":
        by = rng.choice((-30, -2, 2, 30)) * YEAR
        name = rng.choice([name for name in sorted(counted.points) if name != "host"])
        faults = (ClockJump(name, Jump(round(rng.uniform(0.1, 2.5), 2), by, round(rng.uniform(0.2, 2.5), 2))),)
    else:
        faults = (Crash(process, moment),)
    return Schedule(seed, number, kind, faults, pauses)


_CUTS = (Deed.CUT_BEFORE, Deed.CUT_WITHIN, Deed.CUT_AFTER, Deed.DELAY)
_FRAME_DEEDS = (Deed.REPEAT, Deed.DROP, Deed.SWAP, Deed.DELAY)


def _tampering(rng: Random, counted: Counted, links: tuple[Link, ...], deeds: tuple[Deed, ...]) -> Tampering:
    link, way = rng.choice(links), rng.choice(tuple(Way))
    nth = rng.randint(1, max(1, counted.messages[link, way]))
    return Tampering(link, way, nth, rng.choice(deeds), round(rng.uniform(0.1, 1.5), 2))
