"""Sites that want the model and give nothing for it. Trust zone: the developer's machine.

What they send looks like an update and teaches the model nothing; each dilutes a mean by its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from simulations.behaviour import Behaviour, Sight, Sites
from simulations.behaviours.checks import require_within
from simulations.behaviours.false_updates import drawn
from trusted.encoding import Vector


def idle(sites: Sites, *, name: str = "idle") -> Behaviour:
    """They send the model back as it came: an update of zeros."""
    return Behaviour(name, "they train nothing and send zeros", sites, forges=_zeros)


def stale(sites: Sites, *, name: str = "stale") -> Behaviour:
    """They send the last step of the model as their own update (Lin et al. 2019); in the first round zeros."""
    return Behaviour(name, "they train nothing and send the model's last step as their own", sites, forges=_last_step)


def pretending(sites: Sites, *, deviation: float = 1e-3, name: str = "pretending") -> Behaviour:
    """They send noise of so small a ``deviation`` that it looks like training and changes little.

    Raises:
        ValueError: ``deviation`` is below 0.
    """
    require_within(name, "deviation", deviation, 0, 1e6)
    says = f"they train nothing and send noise of deviation {deviation:g}"
    return Behaviour(name, says, sites, forges=partial(drawn, deviation))


def _zeros(sight: Sight) -> Sequence[Vector]:
    return [np.zeros_like(update) for update in sight.own]


def _last_step(sight: Sight) -> Sequence[Vector]:
    return [sight.step.copy() for _ in sight.own]
