"""A simulation's rounds as a table for people. Trust zone: the developer's machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from simulations.result import Ending, Result, RoundRow
from simulations.table import Cell, Table

_MOST_ROWS = 24
_SHOWN_AT_EACH_END = 10
_MOST_NAMED = 5
_MEGABYTE = 1e6

Reads = Callable[[RoundRow], Cell]


def table_of(result: Result, *, most_rows: int = _MOST_ROWS) -> Table:
    """A row for each round; of a long simulation the first and the last ones; MB counts both ways."""
    columns = _columns(result.rounds)
    rows = [tuple(read(row) for _, read in columns) for row in result.rounds]
    if len(rows) > most_rows:
        gap: tuple[Cell, ...] = tuple("…" for _ in columns)
        rows = [*rows[:_SHOWN_AT_EACH_END], gap, *rows[-_SHOWN_AT_EACH_END:]]
    return Table(_title(result), tuple(heading for heading, _ in columns), tuple(rows), _notes(result))


def metrics_of(rounds: Sequence[RoundRow]) -> list[str]:
    """The names of what is said of the model after a round, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rounds for name in row.evaluated))


def reported_of(rounds: Sequence[RoundRow]) -> list[str]:
    """The names of what sites said of their training."""
    return list(dict.fromkeys(name for row in rounds for name in row.reported))


def _columns(rounds: Sequence[RoundRow]) -> list[tuple[str, Reads]]:
    columns: list[tuple[str, Reads]] = [("round", lambda row: row.number)]
    evaluated = metrics_of(rounds)
    columns += [(name, _evaluated(name)) for name in evaluated]
    columns += [(name, _reported(name)) for name in reported_of(rounds) if name not in evaluated]
    if any(row.epsilon is not None for row in rounds):
        columns.append(("ε", lambda row: row.epsilon))
    columns += [
        ("counted", lambda row: f"{len(row.counted)}/{len(row.drawn)}"),
        ("MB", lambda row: (row.bytes_down + row.bytes_up) / _MEGABYTE),
    ]
    if any(row.virtual_s for row in rounds):
        columns.append(("virtual s", lambda row: row.virtual_s))
    columns.append(("wall s", lambda row: sum(row.wall_s.values())))
    return columns


def _evaluated(name: str) -> Reads:
    return lambda row: row.evaluated.get(name)


def _reported(name: str) -> Reads:
    return lambda row: row.reported.get(name)


def _title(result: Result) -> str:
    committed = sum(row.abandoned is None for row in result.rounds)
    seconds = sum(sum(row.wall_s.values()) for row in result.rounds)
    return f"{committed} round(s) committed of {len(result.rounds)}, in {seconds:.1f} s"


def _notes(result: Result) -> tuple[str, ...]:
    lost = Counter(reason for row in result.rounds for reason in row.lost.values())
    nothing = [f"{row.number} ({row.abandoned.name})" for row in result.rounds if row.abandoned is not None]
    notes = [f"Did not count: {', '.join(f'{count} {reason.name}' for reason, count in lost.items())}."] if lost else []
    if nothing:
        shown = ", ".join(nothing[:_MOST_NAMED]) + (" and others" if len(nothing) > _MOST_NAMED else "")
        notes.append(f"{len(nothing)} round(s) came to nothing: {shown}.")
    if result.admission_s is not None:
        notes.append(f"All sites were attested and admitted, in {result.admission_s:.2g} s more (software TEE).")
    if result.ending is not Ending.COMPLETE:
        notes.append(f"It ended early: {result.ending.value}.")
    return tuple(notes)
