"""How a run stands, folded from events: who is waited for, since when, and what a pause looks like."""

from __future__ import annotations

from typing import Any

from coordinator.host.run_status import RunState, RunStatus

PLAN = "11" * 32


def folded(*events: dict[str, Any]) -> RunStatus:
    """The status behind ``events``, one second after the other."""
    status = RunStatus(PLAN)
    for second, event in enumerate(events):
        status = status.after({"ts": f"2026-01-01T00:00:{second:02}Z", **event})
    return status


def test_a_pause_shows_until_it_is_taken_back() -> None:
    started, paused, resumed = ({"event": f"run-{name}"} for name in ("started", "paused", "resumed"))
    assert folded(started, paused).state is RunState.PAUSED
    assert folded(started, paused, resumed).state is RunState.RUNNING
    assert folded(paused, started).state is RunState.PAUSED  # a standing pause is told before the start
    assert folded(paused, started, resumed).state is RunState.RUNNING
    assert folded(paused, resumed).state is RunState.WAITING
    assert folded(started, paused, {"event": "round-opened", "round": 1}).state is RunState.RUNNING
    assert folded(started, paused, {"event": "run-ended", "outcome": "stopped"}, resumed).state is RunState.STOPPED


def test_a_paused_run_survives_its_encoding() -> None:
    status = folded({"event": "run-started"}, {"event": "run-paused"})
    assert RunStatus.decode(status.encode()) == status
