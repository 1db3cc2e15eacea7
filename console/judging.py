"""How a plan has its model judged, from what a person gives. Trust zone: the member's own machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from console.output import UserError

_LABEL = "Write --evaluate-label column:at_least, as in visits:5."
_SUBGROUP = "Write --subgroup column=value,value or column:edge,edge, as in sex=0,1 or age:18,65."


@dataclass(frozen=True, slots=True)
class Judged:
    """The options of an evaluation; without a label there is none, and no model card.

    Attributes:
        label: ``column:at_least``: what counts as a positive row.
        subgroups: ``column=value,value`` or ``column:edge,edge`` each.
        min_cell, min_sites, digits, per_site: what may be told (docs/evaluation.md).
        shadows: models of the membership audit's shadow attack; 0: the loss threshold alone.
        calls: how often the app trains each of them.
        unseen: columns of subgroups that the app does not get to see.
    """

    label: str | None
    subgroups: Sequence[str] = ()
    min_cell: int = 10
    min_sites: int = 2
    digits: int = 3
    threshold: float = 0.5
    per_site: bool = False
    shadows: int = 0
    calls: int = 3
    unseen: Sequence[str] = ()

    def to_json(self) -> dict[str, Any] | None:
        """``plan.evaluation``.

        Raises:
            UserError: an option does not read, or there are subgroups and no label.
        """
        if self.label is None:
            if self.subgroups:
                raise UserError("--subgroup without --evaluate-label", _LABEL)
            return None
        column, colon, at_least = self.label.rpartition(":")
        if not colon:
            raise UserError("a label that does not read", _LABEL)
        return {
            "task": "binary-classification",
            "label": {"column": column, "at_least": _number(at_least, _LABEL)},
            "threshold": self.threshold,
            "bins": 200,
            "subgroups": [_subgroup(text) for text in self.subgroups],
            "min_cell": self.min_cell,
            "min_sites": self.min_sites,
            "digits": self.digits,
            "count_base": 5,
            "per_site": self.per_site,
            "audit": {"shadows": self.shadows, "calls": self.calls},
            **({"unseen": list(self.unseen)} if self.unseen else {}),
        }


def _subgroup(text: str) -> dict[str, Any]:
    column, equals, values = text.partition("=")
    if equals:
        return {"column": column, "values": [value.strip() for value in values.split(",")]}
    column, colon, edges = text.rpartition(":")
    if not colon:
        raise UserError("a subgroup that does not read", _SUBGROUP)
    return {"column": column, "edges": [_number(edge, _SUBGROUP) for edge in edges.split(",")]}


def _number(text: str, hint: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{text.strip() or 'nothing'}: a number expected", hint) from None
