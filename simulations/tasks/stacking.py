"""How many sites' models to train at once: by measurement, for each shape of module once. Trust zone: developer."""

from __future__ import annotations

import time
from collections.abc import Callable

_CANDIDATES = (4, 8, 16)
_TIMES = 3
_WORTH = 0.9  # of one after the other: closer than that the measurement may say either on another day
_known: dict[object, int] = {}


def fastest(key: object, run: Callable[[int], None], most: int) -> int:
    """1, or the number of sites together at which ``run`` takes least time for each site, at most ``most``.

    ``key`` says what was measured: the same is not measured again in this process or in those forked from it.
    """
    if key not in _known:
        candidates = [1, *(count for count in _CANDIDATES if count <= most)]
        for count in candidates:
            run(count)  # the first call pays for what the others find ready
        seconds = {count: min(_taken(run, count) for _ in range(_TIMES)) / count for count in candidates}
        best = min(candidates, key=lambda count: seconds[count])
        _known[key] = best if seconds[best] < _WORTH * seconds[1] else 1
    return _known[key]


def _taken(run: Callable[[int], None], count: int) -> float:
    start = time.process_time()
    run(count)
    return time.process_time() - start
