"""What sites worked in a run, and how much of it was for nothing: from the seconds that they wrote down themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rounds = tuple[tuple[int, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of training over all sites. ``wasted_s``: of results that no committed round holds, and of repetitions.

    ``trained`` and ``repeated`` count trainings: whoever trains nothing twice has wasted nothing, however it is timed.
    """

    trained: int
    repeated: int
    worked_s: float
    wasted_s: float

    def told(self) -> dict[str, Any]:
        """For a report."""
        worked, wasted = round(self.worked_s, 3), round(self.wasted_s, 3)
        return {"trained": self.trained, "repeated": self.repeated, "worked_s": worked, "wasted_s": wasted}


def work_of(logs: Mapping[str, Path], rounds: Rounds) -> Work:
    """The work in the sites' ``logs``, held against the rounds that the release says it holds."""
    held = {(number, member) for number, members in rounds for member in members}
    done: Counter[tuple[int, str]] = Counter()
    worked_s = wasted_s = 0.0
    for member, log in logs.items():
        for line in log.read_text().splitlines():
            if not line.startswith('{"event": "trained"'):
                continue
            said = json.loads(line)
            which, seconds = (said["round"], member), said["seconds"]
            done[which] += 1
            worked_s += seconds
            if which not in held or done[which] > 1:
                wasted_s += seconds
    return Work(done.total(), done.total() - len(done), worked_s, wasted_s)
