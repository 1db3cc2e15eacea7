"""What a benchmark is to the command line. Trust zone: the developer's machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simulations.costs.not_measured import NotMeasured as BenchmarkError

__all__ = ["Benchmark", "BenchmarkError", "Outcome", "table"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a benchmark found.

    Attributes:
        data: for programs.
        text: for people, lines.
        failures: what was asked for and is missing in ``data``, in words. None may be left out in silence.
    """

    data: Mapping[str, Any]
    text: str
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One subcommand.

    Attributes:
        summary: a line for ``--help``.
        add_options: to its own parser; ``--json`` is there already.
        run: raises BenchmarkError when nothing can be measured.
    """

    name: str
    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Outcome]


def table(rows: list[tuple[str, ...]]) -> str:
    """``rows`` in columns, the first of them the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
