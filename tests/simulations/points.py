"""What the sweeps of the tests measure; a module of its own, since other processes import it by name."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def squared(settings: Mapping[str, Any]) -> dict[str, float]:
    """x² plus a little of the seed. Leaves a trace of each call in the folder ``trace``."""
    if "trace" in settings:
        (Path(settings["trace"]) / f"{settings['x']}-{settings['seed']}-{os.getpid()}").touch()
    if settings["x"] == "fails":
        raise ValueError("x: a number expected")
    if settings["x"] == "dies":
        os._exit(9)
    time.sleep(settings.get("seconds", 0.0))
    return {"square": float(settings["x"]) ** 2 + 0.01 * settings["seed"]}
