"""What a plan exchanges each round, from what a person gives. Trust zone: the member's own machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from console.output import UserError
from trusted.documents.layout import Layout
from trusted.documents.terms import Exchange

_NAMES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Travel:
    """The encodings by name, and the tensors that travel: names or patterns (``lora_*``); none: all of them."""

    model: str = "float32"
    update: str = "float32"
    tensors: Sequence[str] = ()

    def to_json(self, layout: Layout) -> dict[str, Any]:
        """``plan.exchange`` for a model of this ``layout``; naming every tensor is the same as naming none.

        Raises:
            UserError: a name or pattern is of no tensor.
        """
        named = {name for asked in self.tensors for name in _matches(asked, layout)}
        whole = len(named) == len(layout.tensors)
        tensors = [] if whole else [tensor.name for tensor in layout.tensors if tensor.name in named]
        return {"model": self.model, "update": self.update, "tensors": tensors}


IN_FULL = Travel()


def describe(exchange: Exchange) -> str:
    """One line for a table."""
    tensors = f"{len(exchange.tensors)} tensors" if exchange.tensors else "all tensors"
    return f"{tensors}; model {exchange.model.name.lower()}, updates {exchange.update.name.lower()}"


def _matches(asked: str, layout: Layout) -> list[str]:
    names = [tensor.name for tensor in layout.tensors]
    found = [name for name in names if name == asked or fnmatchcase(name, asked)]
    if not found:
        raise UserError(f"--exchange-tensor {asked}: no tensor of the initial model", _known(asked, names))
    return found


def _known(asked: str, names: list[str]) -> str:
    """The names that the model has, those like ``asked`` first."""
    alike = get_close_matches(asked, names, _NAMES_SHOWN)
    ordered = [*alike, *(name for name in names if name not in set(alike))]
    more = len(ordered) - _NAMES_SHOWN
    return f"The model has: {', '.join(ordered[:_NAMES_SHOWN])}" + (f" and {more} more." if more > 0 else ".")
