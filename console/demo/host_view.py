"""What the host of a run has afterwards, and what it has not. Trust zone: none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from trusted.documents.layout import Layout


@dataclass(frozen=True, slots=True)
class HostView:
    """What a host has after a run: a table for people, and what of the models was found where it must not be."""

    table: Table
    searched_bytes: int
    found: tuple[str, ...]


def host_view(state: Path, log: Path, layout: Layout, needles: Mapping[str, bytes]) -> HostView:
    """Search everything that the host ever wrote for the first bytes of each model."""
    stored = _contents(state) + log.read_bytes()
    found = tuple(name for name, needle in needles.items() if needle in stored)
    blobs = sum(1 for path in (state / "blobs").rglob("*") if path.is_file())
    table = Table(title="What the host has, and what it has not")
    table.add_column("it saw")
    table.add_column("it did not see")
    table.add_row("who took part, when, and each measurement", "a row of data")
    table.add_row(f"how often {layout.size_bytes} bytes went up and down", "an update, or a site's weight")
    table.add_row("the rounded mean that the plan lets out", "a site's own metric")
    table.add_row(f"{blobs} sealed blobs, {len(stored)} bytes in all", f"{', '.join(needles)} (searched for)")
    return HostView(table, len(stored), found)


def _contents(folder: Path) -> bytes:
    content = bytearray()
    for root, _, files in os.walk(folder):
        for file in files:
            path = Path(root) / file
            with suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    content += path.read_bytes()
    return bytes(content)
