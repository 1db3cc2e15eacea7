"""What false sites send in place of their updates. Trust zone: the developer's machine.

The attackers know each other and the updates of everybody else, which no site does under Cloister: the table is for the
worst case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trusted.encoding import Vector

_FLIP, _SCALE, _NOISE, _DEVIATIONS = -4.0, 20.0, 1.0, 4.0

Forge = Callable[[Sequence[Vector], Sequence[Vector], np.random.Generator], list[Vector]]
"""From the attackers' own updates and the honest ones to what the attackers send."""


@dataclass(frozen=True, slots=True)
class Attack:
    """``says`` what is sent; with ``turned`` the attackers train on false labels first."""

    name: str
    says: str
    forge: Forge
    turned: bool = False


def _as_they_are(own: Sequence[Vector], honest: Sequence[Vector], rng: np.random.Generator) -> list[Vector]:
    return list(own)


def _flipped(own: Sequence[Vector], honest: Sequence[Vector], rng: np.random.Generator) -> list[Vector]:
    return [np.float32(_FLIP) * update for update in own]


def _scaled(own: Sequence[Vector], honest: Sequence[Vector], rng: np.random.Generator) -> list[Vector]:
    return [np.float32(_SCALE) * update for update in own]


def _a_little(own: Sequence[Vector], honest: Sequence[Vector], rng: np.random.Generator) -> list[Vector]:
    """As Baruch et al. 2019: so far off the honest mean at every place, and all in the same direction."""
    known = np.array(honest, dtype=np.float64)
    same = (known.mean(axis=0) - _DEVIATIONS * known.std(axis=0)).astype(np.float32)
    return [same for _ in own]


def _noise(own: Sequence[Vector], honest: Sequence[Vector], rng: np.random.Generator) -> list[Vector]:
    return [rng.normal(0, _NOISE, len(update)).astype(np.float32) for update in own]


def _nan(own: Sequence[Vector], honest: Sequence[Vector], rng: np.random.Generator) -> list[Vector]:
    return [np.full_like(update, np.nan) for update in own]


ATTACKS = (
    Attack("none", "their own updates", _as_they_are),
    Attack("sign flip", f"{_FLIP:g} times their update", _flipped),
    Attack("scaled", f"{_SCALE:g} times an update trained on turned labels", _scaled, turned=True),
    Attack("label flip", "an update trained on turned labels (9 for 0, 8 for 1 and so on)", _as_they_are, turned=True),
    Attack("colluding", f"all the same: the honest mean less {_DEVIATIONS:g} deviations at every place", _a_little),
    Attack("noise", f"a normal distribution of deviation {_NOISE:g} at every place", _noise),
    Attack("NaN", "NaN at every place", _nan),
)
