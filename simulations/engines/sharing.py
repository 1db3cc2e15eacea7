"""How jobs are shared among processes. Trust zone: the developer's machine."""

from __future__ import annotations


def share_size(jobs: int, processes: int, together: int) -> int:
    """How many jobs to give at a time: at most ``together``, and as many shares for one process as for another.

    With 50 jobs, 2 processes and 16 together it is 13: shares of 16, 16, 16 and 2 would keep one process waiting.
    """
    each = -(-jobs // max(1, processes))  # of the process that does most
    turns = max(1, -(-each // max(1, together)))
    return max(1, -(-jobs // (max(1, processes) * turns)))
