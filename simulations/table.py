"""A table that a notebook, a terminal and a program read alike. Trust zone: the developer's machine."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

Cell = str | int | float | None
_ABSENT = "–"
_STYLE = "text-align:{align};padding:2px 10px"


@dataclass(frozen=True, slots=True)
class Table:
    """``rows`` of one cell for each heading; ``notes`` are sentences that belong under it.

    A notebook shows it by itself, ``rich.print`` and ``print`` show it in a terminal.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headings):
                raise ValueError(f"table {self.title!r}: {len(self.headings)} cells in each row expected")

    def to_json(self) -> dict[str, Any]:
        """For programs; a number that is not finite becomes null."""
        rows = [dict(zip(self.headings, map(_plain, row), strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": list(self.notes)}

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, padding=(0, 2, 0, 0))
        for place, heading in enumerate(self.headings):
            widest = max(map(len, heading.split()), default=1)
            table.add_column(heading, justify="right" if self._numeric(place) else "left", min_width=widest)
        for row in self.rows:
            table.add_row(*(Text(show(cell)) for cell in row))  # as text: a name is never markup
        title = [Text(self.title, style="bold")] if self.title else []
        return Group(*title, table, *(Text(note, style="dim") for note in self.notes))

    def __str__(self) -> str:
        lines = [self.headings, *(tuple(map(show, row)) for row in self.rows)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.headings))]
        right = [self._numeric(place) for place in range(len(self.headings))]
        shown = [
            "  ".join(
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(line, widths, right, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*([self.title] if self.title else []), *shown, *self.notes])

    def _repr_html_(self) -> str:
        aligns = ["right" if self._numeric(place) else "left" for place in range(len(self.headings))]
        head = _html_row("th", self.headings, aligns)
        body = "".join(_html_row("td", [show(cell) for cell in row], aligns) for row in self.rows)
        notes = "".join(f"<div><small>{html.escape(note)}</small></div>" for note in self.notes)
        caption = f"<div><b>{html.escape(self.title)}</b></div>" if self.title else ""
        return f"{caption}<table><thead>{head}</thead><tbody>{body}</tbody></table>{notes}"

    def _numeric(self, place: int) -> bool:
        cells = [row[place] for row in self.rows if row[place] is not None]
        return bool(cells) and not any(isinstance(cell, str) and not _numberlike(cell) for cell in cells)


def show(cell: Cell) -> str:
    """A cell as people read it: four significant digits, and a dash where there is nothing."""
    if cell is None:
        return _ABSENT
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return _number(cell)
    return cell


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.{max(0, 3 - max(0, math.floor(math.log10(abs(value)))))}f}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.2e}"


def _numberlike(text: str) -> bool:
    """Figures with their uncertainty or unit: ``0.83 ± 0.02``, ``…``."""
    return text[:1].isdigit() or text in (_ABSENT, "…") or (text[:1] in "-−<" and text[1:2].isdigit())


def _plain(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _html_row(tag: str, cells: Sequence[str], aligns: Sequence[str]) -> str:
    inner = "".join(
        f'<{tag} style="{_STYLE.format(align=align)}">{html.escape(cell)}</{tag}>'
        for cell, align in zip(cells, aligns, strict=True)
    )
    return f"<tr>{inner}</tr>"
