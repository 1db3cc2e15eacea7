"""How a run stands, folded from events: who is waited for, since when, and what a pause looks like."""

from __future__ import annotations

from typing import Any

from coordinator.host.run_status import RunState, RunStatus
from trusted.errors import Reason

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
    opened = {"event": "round-opened", "round": 1}
    assert folded(started, paused, opened).state is RunState.PAUSED  # it was on its way as the pause came
    assert folded(started, paused, opened, resumed).state is RunState.RUNNING
    assert folded(started, paused, {"event": "run-ended", "outcome": "stopped"}, resumed).state is RunState.STOPPED


def test_a_paused_run_survives_its_encoding() -> None:
    status = folded({"event": "run-started"}, {"event": "run-paused"})
    assert RunStatus.decode(status.encode()) == status


def test_a_paused_member_stays_away_whatever_it_had_begun_until_it_takes_tasks_again() -> None:
    member = {"member": "site-3"}
    away = {"event": "away", "reason": Reason.SITE_PAUSED.code, **member}
    counted = {"event": "contribution", "outcome": "counted", "round": 1, **member}
    drawn = {"event": "round-opened", "round": 2, "waiting_for": ["site-3"]}
    assert folded(away, counted, drawn).members["site-3"].away_reason == Reason.SITE_PAUSED.code
    assert folded(away, counted, {"event": "back", **member}).members["site-3"].away_reason is None
    silent = {"event": "contribution", "outcome": "silent", "reason": Reason.MEMBER_SILENT.code, **member}
    assert folded(silent).members["site-3"].away_reason == Reason.MEMBER_SILENT.code
    assert folded(silent, counted).members["site-3"].away_reason is None
