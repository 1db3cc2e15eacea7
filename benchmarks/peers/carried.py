"""That a peer carried and averaged what it says: from what its workers received. Trust zone: the developer's machine.

Worker k, from 1, adds k to every parameter of each round's model, so after r rounds of W workers every parameter has
grown by r·(W + 1)/2. A peer that dropped a worker, or a byte at an end, is not measured but reported.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from benchmarks.peers.load import Load, PeerFailed

_TOLERANCE = 1e-3  # of float32 sums of small numbers


def require_aggregates(folder: Path, load: Load, rounds: int) -> None:
    """Every worker received every round's model, and it was the mean of all.

    Args:
        folder: holds ``worker-*.jsonl``, a line for each model received: worker, round, its first and last parameter.
        load: how many workers there were.
        rounds: run in all, the first included.

    Raises:
        PeerFailed: what was not as expected.
    """
    received: dict[tuple[int, int], list[float]] = {}
    for path in sorted(folder.glob("worker-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            received[item["worker"], item["round"]] = item["ends"]
    expected = {(worker, number) for worker in range(1, load.workers + 1) for number in range(rounds)}
    if missing := expected - received.keys():
        raise PeerFailed(f"{len(missing)} of {len(expected)} models did not reach their worker")
    for (worker, number), ends in received.items():
        growth = number * (load.workers + 1) / 2
        for start, end in zip(received[worker, 0], ends, strict=True):
            if not math.isclose(end - start, growth, abs_tol=_TOLERANCE):
                raise PeerFailed(f"round {number}: what worker {worker} received is not the mean of all updates")
