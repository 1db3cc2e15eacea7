"""Results as a simulation would give them, made by hand so that every field is known."""

from __future__ import annotations

import math

import numpy as np

from simulations.result import Ending, Result, RoundRow
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.errors import Reason

LAYOUT = Layout(
    (
        TensorSpec("z.weight", Dtype.FLOAT32, (2, 3)),
        TensorSpec("a.bias", Dtype.FLOAT64, (2,)),
        TensorSpec("count", Dtype.INT64, ()),
    )
)
MODEL = np.array([0.5, -1.25, 3e-8, 7, 8, 9, 1.5, 2.5, 4], dtype=np.float32)


def row(number: int, **changes: object) -> RoundRow:
    """A committed round in which one site of three was lost."""
    fields: dict[str, object] = {
        "number": number,
        "present": 5,
        "drawn": ("site-0000", "site-0001", "site-0003"),
        "counted": ("site-0000", "site-0003"),
        "lost": {"site-0001": Reason.ROUND_DEADLINE},
        "abandoned": None,
        "reported": {"train-loss": 1.0 / number},
        "evaluated": {"accuracy": 1 - 0.5 / number, "loss": 2.0 / number},
        "epsilon": 0.1 * number,
        "bytes_down": 3_000_000,
        "bytes_up": 2_000_000,
        "virtual_s": 12.5,
        "wall_s": {"draw": 0.001, "train": 0.2, "fold": 0.05},
    }
    return RoundRow(**(fields | changes))  # type: ignore[arg-type]


def result(rounds: int = 3) -> Result:
    """``rounds`` committed ones, one that came to nothing, and one whose loss is not a number."""
    nothing = row(rounds + 1, abandoned=Reason.COHORT_MINIMUM, evaluated={}, reported={}, counted=())
    last = row(rounds + 2, evaluated={"accuracy": 0.9, "loss": math.nan})
    rows = (*(row(number) for number in range(1, rounds + 1)), nothing, last)
    settings = {"seed": 7, "partition": {"kind": "dirichlet", "alpha": 0.1}, "rule": "median"}
    return Result(settings, rows, Ending.BUDGET, LAYOUT, MODEL.copy())
