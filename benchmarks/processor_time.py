"""What a process cost so far: time on a core, fresh pages, wake-ups. Trust zone: the developer's machine.

On a machine that others use, seconds by the wall say little; these say what a change saved.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_MINOR_FAULTS, _USER, _SYSTEM = 7, 11, 12  # fields of /proc/PID/stat behind the command's name, proc(5)


@dataclass(frozen=True, slots=True)
class Spent:
    """By some processes together: seconds in their own code, in the kernel, page faults, and how often they slept."""

    user_s: float
    system_s: float
    faults: float
    sleeps: float

    @classmethod
    def of(cls, pids: Iterable[int]) -> Spent:
        """Until now, threads included; a process that is gone counts nothing."""
        total = cls(0.0, 0.0, 0.0, 0.0)
        for pid in pids:
            try:
                found = _read(Path(f"/proc/{pid}"))
            except OSError:
                continue
            total = cls(*(mine + its for mine, its in zip(astuple(total), astuple(found), strict=True)))
        return total

    def until(self, later: Spent, rounds: int) -> dict[str, float]:
        """What was spent from here to ``later``, for each of ``rounds``."""
        pairs = zip(astuple(self), astuple(later), strict=True)
        return asdict(Spent(*(round((after - before) / max(1, rounds), 5) for before, after in pairs)))


def _read(process: Path) -> Spent:
    numbers = (process / "stat").read_text().rpartition(")")[2].split()
    sleeps = 0
    for task in (process / "task").iterdir():
        lines = (task / "status").read_text().splitlines()
        sleeps += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    user, system, faults = int(numbers[_USER]), int(numbers[_SYSTEM]), int(numbers[_MINOR_FAULTS])
    return Spent(user / _TICKS, system / _TICKS, faults, sleeps)
