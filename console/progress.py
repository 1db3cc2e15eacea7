"""A run as a live table: rounds, sites, attestation, bytes, and what it waits for. Trust zone: a member's machine.

Drawn from the host's public events, which prove nothing; proof is in the release and in each side's own admission.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from console.client import WatchedEvent
from console.ordering import Desk
from console.waiting import standing, waits
from coordinator.host.run_status import MemberStatus, RunStatus
from trusted.documents.plan import Plan
from trusted.errors import Reason, RunError

_STALE_AFTER = 20  # reconnects in a row without an event: then the host is told as unreachable


def watch_run(desk: Desk, *, quiet: bool = False, console: Console | None = None) -> RunStatus:
    """Follow the run until it is over; how it ended. ``quiet`` draws nothing.

    Raises:
        ProtocolError: the host refuses, or stays out of reach.
    """
    status = RunStatus(desk.plan.digest.hex(), rounds=desk.plan.document.rounds)
    shown = _Shown(status)
    with _drawing(lambda: draw(shown.status, desk.plan.document, datetime.now(UTC)), console, quiet=quiet):
        for event in _events(desk):
            shown.status = _with_bytes(shown.status.after(event.fields), desk, event)
            if shown.status.state.is_over:
                break
    return shown.status


@dataclass(slots=True)
class _Shown:
    """What the screen shows now."""

    status: RunStatus


@contextmanager
def _drawing(picture: Callable[[], RenderableType], console: Console | None, *, quiet: bool) -> Iterator[None]:
    """Draws ``picture`` over the last one, also when nothing comes: how long somebody is silent changes with time."""
    if quiet:
        yield
        return
    with Live(console=console or Console(), refresh_per_second=4, get_renderable=picture):
        yield


def _events(desk: Desk) -> Iterator[WatchedEvent]:
    """Every event, over as many streams as it takes; the host may restart meanwhile."""
    after, failures = 0, 0
    while True:
        try:
            for event in desk.client.watch(desk.plan.digest, after):
                after, failures = event.number, 0
                yield event
        except RunError as error:
            failures += 1
            if error.reason is not Reason.UNREACHABLE or failures > _STALE_AFTER:
                raise


def _with_bytes(status: RunStatus, desk: Desk, event: WatchedEvent) -> RunStatus:
    """The host counts bytes itself and puts them into no event: ask when a round moves on."""
    if event.fields.get("event") not in ("round-committed", "run-ended"):
        return status
    seen = desk.status()
    return replace(status, bytes_in=seen.bytes_in, bytes_out=seen.bytes_out, aggregator=seen.aggregator)


def draw(status: RunStatus, plan: Plan, now: datetime) -> RenderableType:
    """The picture of ``status`` at the time ``now``."""
    table = Table(
        title=f"{plan.name}: {status.state.value}, round {status.round}, {status.committed} of {plan.rounds} done"
    )
    for heading in ("site", "attestation", "now", "because"):
        table.add_column(heading)
    for member in plan.cohort.members:
        table.add_row(*_row(member, status.members.get(member)))
    waiting = ", ".join(status.waiting_for) or ("nobody" if status.members else "the sites to join")
    carried = f"{megabytes(status.bytes_in)} in, {megabytes(status.bytes_out)} out"
    told = [Text(sentence, style="yellow") for sentence in waits(status, now)]
    return Group(table, *told, Text(f"waiting for: {waiting}   ciphertext carried: {carried}\n", style="dim"))


def _row(name: str, member: MemberStatus | None) -> tuple[str, str, str, str]:
    if member is None:
        return name, "not admitted", "", ""
    protection = "[yellow]NO HARDWARE PROTECTION[/]" if member.assurance == "none" else f"[green]{member.assurance}[/]"
    attested = f"attested {str(member.measurement)[:8]}…, {protection}" if member.attested else "[red]not connected[/]"
    return name, attested, standing(member), str(member.last_reason or "")


def megabytes(count: int) -> str:
    """Decimal megabytes for people."""
    return f"{count / 1e6:.1f} MB"
