"""How far it is, on stderr: a bar for people, nothing where nobody looks. Trust zone: the developer's machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Told = Callable[[int, int, str], None]
"""How much is done, of how much, and what comes now."""


@contextmanager
def shown(what: str, *, total: int | None = None) -> Iterator[Told]:
    """A bar while the context lasts, if stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task(what, total=total)

        def told(done: int, of: int, text: str) -> None:
            progress.update(task, completed=done, total=of, description=f"{what}: {text}" if text else what)

        yield told
