"""How jobs are shared among processes, and where their updates wait. Trust zone: the developer's machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from simulations.task import Job, Task

WINDOW_BYTES = 64 << 20
"""Of updates that wait for their turn, or are being made: sites take different times, and turns are in order."""

_WAITING = 2  # shares at least, beside one in each process: one that is taken, and one that waits

Share = Sequence[tuple[int, Job]]
"""Jobs, each with its place among all of a round."""


def share_size(jobs: int, processes: int, together: int) -> int:
    """How many jobs to give at a time: at most ``together``, and as many shares for one process as for another.

    With 50 jobs, 2 processes and 16 together it is 13: shares of 16, 16, 16 and 2 would keep one process waiting.
    """
    each = -(-jobs // max(1, processes))  # of the process that does most
    turns = max(1, -(-each // max(1, together)))
    return max(1, -(-jobs // (max(1, processes) * turns)))


@dataclass(slots=True)
class Sharing:
    """Round after round, the jobs of ``task`` for so many ``processes``.

    Where a task keeps state, a site stays with the process that first trained it; else any process takes any share.
    """

    task: Task
    processes: int
    _homes: dict[int, int] = field(default_factory=dict)

    def rows(self, most_jobs: int, *, holds_all: bool, window_bytes: int) -> int:
        """For how many updates there is to be room.

        For all of a round where the crew ``holds_all`` of them, or a process does all its sites in one call; else for
        what ``window_bytes`` hold, and for what keeps all processes at work.
        """
        if holds_all or (self.task.keeps_state and self.task.together > 1):
            return most_jobs
        least = (self.processes + _WAITING) * min(most_jobs, max(1, self.task.together))
        return min(most_jobs, max(least, window_bytes // (4 * self.task.layout.elements)))

    def in_turn(self, rows: int, jobs: int) -> int:
        """How many of ``rows`` so many ``jobs`` take in turn; the updates of a share lie side by side."""
        size = share_size(jobs, self.processes, self.task.together)
        return rows if jobs <= rows else rows // size * size

    def shares(self, jobs: Sequence[Job]) -> Sequence[deque[Share]]:
        """For each process what only it may do; or for all the same shares, in the order of their jobs."""
        placed = list(enumerate(jobs))
        if self.task.keeps_state:
            return [self._own(share) for share in self._by_home(placed)]
        size = share_size(len(jobs), self.processes, self.task.together)
        common: deque[Share] = deque(placed[start : start + size] for start in range(0, len(jobs), size))
        return [common] * self.processes

    def _own(self, share: Share) -> deque[Share]:
        if self.task.together > 1:
            return deque([share] if share else [])
        return deque([one] for one in share)

    def _by_home(self, placed: Share) -> list[list[tuple[int, Job]]]:
        """New sites go where the fewest are at work this time."""
        shares: list[list[tuple[int, Job]]] = [[] for _ in range(self.processes)]
        counts = [0] * self.processes
        for _, job in placed:
            if job.site in self._homes:
                counts[self._homes[job.site]] += 1
        for place, job in placed:
            if job.site not in self._homes:
                home = self._homes[job.site] = counts.index(min(counts))
                counts[home] += 1
            shares[self._homes[job.site]].append((place, job))
        return shares
