"""Sites that train on labels that are not true. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator

from simulations.behaviour import Behaviour, Sites
from simulations.dataset import Rows


def label_flip(sites: Sites, *, label: str, values: Sequence[Any], name: str = "label flip") -> Behaviour:
    """Every label is turned around: of ``values``, in their order, the first becomes the last, and so on."""
    turned = dict(zip(values, reversed(values), strict=True))
    says = f"they train on turned labels ({values[-1]} for {values[0]} and so on)"
    return Behaviour(name, says, sites, poisons=partial(_relabelled, label, turned))


def mislabel(sites: Sites, *, label: str, of: Any, to: Any, name: str = "mislabel") -> Behaviour:
    """Rows labelled ``of`` are trained on as ``to``; the others are as they are.

    Its probe is all rows of ``of``, labelled ``to``: the accuracy on them is the share that the model takes for ``to``.
    """
    says = f"they train on {of} as {to}"
    poison = partial(_relabelled, label, {of: to})
    return Behaviour(name, says, sites, poisons=poison, probes=partial(_probed, label, of, to))


def _relabelled(label: str, turned: Mapping[Any, Any], rows: Rows, rng: Generator) -> Rows:
    before = rows[label]
    after = before.copy()
    for old, new in turned.items():
        after[before == old] = new
    return {**rows, label: np.asarray(after)}


def _probed(label: str, of: Any, to: Any, rows: Rows) -> Rows:
    mine = rows[label] == of
    return {**{name: column[mine] for name, column in rows.items()}, label: np.full_like(rows[label][mine], to)}
