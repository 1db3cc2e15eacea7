"""What a command of ``cloister simulate`` shows, and what it keeps. Trust zone: the developer's machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from console.files import write_file
from console.output import Report
from simulations.drawing import Picture
from simulations.table import Table


def show_table(report: Report, table: Table) -> None:
    """For people, on stdout. Where it is wider than the terminal, lines wrap; no digit is cut off."""
    if report.json_output:
        return
    from rich.console import Console

    console, plain = Console(), str(table)
    if max(map(len, plain.splitlines())) > console.width:
        print(plain)
    else:
        console.print(table)


def keep(report: Report, out: Path, table: Table, picture: Picture | None, settings: dict[str, Any]) -> None:
    """Write ``figure.png``, ``figure.svg``, ``table.txt``, ``table.json`` and ``settings.json`` to the folder ``out``.

    Raises:
        OSError: it cannot be written.
    """
    written = ["table.txt", "table.json", "settings.json"]
    write_file(out / "table.txt", f"{table}\n".encode(), force=True)
    write_file(out / "table.json", (json.dumps(table.to_json(), indent=1) + "\n").encode(), force=True)
    write_file(out / "settings.json", (json.dumps(settings, indent=1) + "\n").encode(), force=True)
    if picture is not None:
        picture.save(out / "figure.png")
        picture.save(out / "figure.svg")
        written = ["figure.png", "figure.svg", *written]
    report.say(f"Wrote {', '.join(written)} to {out}.")
    report.data["out"] = str(out)
