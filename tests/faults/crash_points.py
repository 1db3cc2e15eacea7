"""Where a process dies: wrapped around the product from outside, in the test's own child, never written into it.

A point is passed *before* and *after* a step: a transition of either state table, a leaf of the log on its way to disk
and witnesses, a record of a worker's memory, a row or a file of the host.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Moment:
    """The ``nth`` time that a process passes ``point``."""

    point: str
    nth: int


class Points:
    """Counts what this process passes; at ``moment`` it is killed, as by an operator or a power cut."""

    def __init__(self, moment: Moment | None) -> None:
        self._moment = moment
        self._lock = threading.Lock()
        self.passed: Counter[str] = Counter()

    def pass_by(self, point: str) -> None:
        with self._lock:
            self.passed[point] += 1
            if self._moment == Moment(point, self.passed[point]):
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str, label: Callable[..., str] | str) -> None:
        """Make ``owner.name`` pass two points each time it is called."""
        original = getattr(owner, name)

        def named(*args: Any) -> str:
            return label if isinstance(label, str) else label(*args)

        if inspect.iscoroutinefunction(original):

            async def awaited(*args: Any, **kwargs: Any) -> Any:
                what = named(*args)
                self.pass_by(f"before {what}")
                value = await original(*args, **kwargs)
                self.pass_by(f"after {what}")
                return value

            setattr(owner, name, awaited)
            return

        def called(*args: Any, **kwargs: Any) -> Any:
            what = named(*args)
            self.pass_by(f"before {what}")
            value = original(*args, **kwargs)
            self.pass_by(f"after {what}")
            return value

        setattr(owner, name, called)

    def save(self, path: Path) -> None:
        """Write down what was passed, for the schedules to choose from."""
        path.write_text(json.dumps(self.passed))


def _transition(table: Any, state: Any, kind: Any) -> str:
    return f"admission {state.name}+{kind.name}"


def in_aggregator(points: Points) -> None:
    """Both state tables, the journal, what is asked of the host, and every effect."""
    from coordinator.enclave import __main__ as shell
    from coordinator.enclave import doors, journal, rounds
    from trusted.channel import aggregator as channel

    points.around(channel, "successor", _transition)
    points.around(rounds.Round, "advance", lambda round_, event: f"round {round_.state.name}+{event.name}")
    points.around(journal.Journal, "commit", "journal commit")
    points.around(journal.Journal, "_write_next", "journal write")
    points.around(journal.Journal, "_certify", "journal certify")
    for name in ("write", "expect", "discard"):
        points.around(doors.Doors, name, f"store {name}")
    points.around(shell._Shell, "_perform", lambda _, effect: f"effect {type(effect).__name__}")


def in_worker(points: Points) -> None:
    """Its state table, its memory, its work."""
    from trusted.channel import worker as channel
    from trusted.vault import Vault
    from worker import contribution, memory

    points.around(channel, "successor", _transition)
    points.around(memory.Memory, "_keep", "memory keep")
    points.around(Vault, "write", "vault write")
    points.around(contribution.Contributor, "_work", "work")
    points.around(contribution.Contributor, "_put", "upload")


def in_host(points: Points) -> None:
    """Its rows and its files."""
    from coordinator.host import aggregators, spool, state_sqlite

    for name in ("append_event", "add_blob", "finish_blob", "note_received", "delete_blob", "honour_order"):
        points.around(state_sqlite.SqliteState, name, f"row {name}")
    points.around(spool, "write_at", "file write")
    points.around(aggregators.Aggregators, "register", "door register")
    points.around(aggregators.Aggregators, "open_session", "session open")
    points.around(aggregators.Session, "deliver", "frame down")


INSIDE: dict[str, Callable[[Points], None]] = {"aggregator": in_aggregator, "host": in_host}
