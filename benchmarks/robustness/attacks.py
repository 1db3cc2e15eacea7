"""What false sites do in the table: behaviours that simulations have too. Trust zone: the developer's machine.

The attackers know each other and the updates of everybody else, which no site does under Cloister: the table is for the
worst case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.robustness.digits import CLASSES, Rows
from simulations import behaviours
from simulations.behaviour import Behaviour, Sight
from simulations.dataset import Rows as Columns
from trusted.encoding import Vector

_FLIP, _SCALE, _NOISE, _DEVIATIONS = 4.0, 20.0, 1.0, 4.0
_TURNED = behaviours.label_flip((), label="digits", values=range(CLASSES))


@dataclass(frozen=True, slots=True)
class Attack:
    """``says`` what is sent, after each of ``behaviours`` did its part; of whom they are is not asked."""

    name: str
    says: str
    behaviours: tuple[Behaviour, ...] = ()

    def poison(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """What an attacker trains on in the place of ``rows``."""
        columns: Columns = {"pixels": rows.pixels, "digits": rows.digits}
        for behaviour in self.behaviours:
            if behaviour.poisons is not None:
                columns = behaviour.poisons(columns, rng)
        return Rows(columns["pixels"], columns["digits"])

    def forge(self, own: Sequence[Vector], honest: Sequence[Vector], rng: np.random.Generator) -> list[Vector]:
        """What the attackers send, who trained ``own`` and know what is ``honest``."""
        sent = list(own)
        for behaviour in self.behaviours:
            if behaviour.forges is not None:
                sent = list(behaviour.forges(Sight(1, sent, honest, np.zeros_like(own[0]), rng)))
        return sent


ATTACKS = (
    Attack("none", "their own updates"),
    Attack("sign flip", f"{-_FLIP:g} times their update", (behaviours.sign_flip((), times=_FLIP),)),
    Attack(
        "scaled",
        f"{_SCALE:g} times an update trained on turned labels",
        (_TURNED, behaviours.scaled((), times=_SCALE)),
    ),
    Attack("label flip", "an update trained on turned labels (9 for 0, 8 for 1 and so on)", (_TURNED,)),
    Attack(
        "colluding",
        f"all the same: the honest mean less {_DEVIATIONS:g} deviations at every place",
        (behaviours.a_little((), deviations=_DEVIATIONS),),
    ),
    Attack(
        "noise",
        f"a normal distribution of deviation {_NOISE:g} at every place",
        (behaviours.noise((), deviation=_NOISE),),
    ),
    Attack("NaN", "NaN at every place", (behaviours.nan(()),)),
)
