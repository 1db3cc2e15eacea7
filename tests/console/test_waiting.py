"""What a person reads of a run that waits: on whom, at what, since when, and who is waited for no longer."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from console.progress import draw
from console.waiting import waits
from coordinator.host.run_status import RunStatus

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
PLAN: Any = SimpleNamespace(name="visits", rounds=5, cohort=SimpleNamespace(members=("site-1", "site-2", "site-3")))
OPENED = {"event": "round-opened", "round": 1, "waiting_for": ["site-1", "site-2", "site-3"]}


def at(seconds: int) -> datetime:
    return BEGUN + timedelta(seconds=seconds)


def folded(*events: tuple[int, dict[str, Any]]) -> RunStatus:
    status = RunStatus("11" * 32)
    for second, event in events:
        status = status.after({"ts": f"{at(second):%Y-%m-%dT%H:%M:%SZ}", **event})
    assert RunStatus.decode(status.encode()) == status
    return status


def answered(member: str, **fields: Any) -> dict[str, Any]:
    return {"event": "contribution", "round": 1, "member": member, "outcome": "counted", **fields}


def test_the_site_that_a_round_waits_on_is_named_with_its_work_and_its_silence() -> None:
    progress = {"event": "progress", "round": 1, "member": "site-3", "outcome": "upload 62 %"}
    status = folded((0, OPENED), (1, answered("site-1")), (2, answered("site-2")), (10, progress))
    assert waits(status, at(12)) == ["round waits on site-3: upload at 62 %"]
    assert waits(status, at(50)) == ["silent 40 s, round waits on site-3: upload at 62 %"]
    trains = {"event": "progress", "round": 1, "member": "site-3", "outcome": "train 0 %"}
    assert waits(folded((0, OPENED), (1, trains)), at(2))[2] == "round waits on site-3: train"


def test_silence_is_counted_from_the_last_sign_of_work() -> None:
    silent = {"event": "silent", "round": 1, "member": "site-3", "outcome": "upload 62 %", "seconds": 40.0}
    status = folded((0, OPENED), (1, answered("site-1")), (2, answered("site-2")), (60, silent))
    assert waits(status, at(61)) == ["silent 41 s, round waits on site-3: upload at 62 %"]


def test_who_is_quarantined_is_told_since_when_and_why_until_it_moves() -> None:
    lost = answered("site-3", outcome="silent", reason="RND-610", seconds=120.0)
    status = folded((0, OPENED), (120, lost))
    assert status.waiting_for == ("site-1", "site-2")
    told = "not waited for since 2026-01-01T00:02:00Z (10 s): site-3: its work stands still (RND-610)"
    assert waits(status, at(130))[-1] == told
    awaited = {"event": "awaited", "round": 1, "member": "site-3", "outcome": "upload 63 %"}
    status = folded((0, OPENED), (120, lost), (140, awaited))
    assert status.waiting_for == ("site-1", "site-2", "site-3")
    assert waits(status, at(141))[-1] == "round waits on site-3: upload at 63 %"
    counted = folded((0, OPENED), (120, lost), (140, answered("site-3")))
    assert all("not waited for" not in sentence for sentence in waits(counted, at(141)))


def test_a_lost_connection_is_waited_for_and_a_new_round_forgets_the_old_ones_quarantine() -> None:
    left = {"event": "left", "session": 4, "member": "site-3"}
    assert all("not waited for" not in line for line in waits(folded((0, OPENED), (1, left)), at(2)))
    lost = answered("site-3", outcome="silent", reason="RND-610", seconds=120.0)
    again = folded((0, OPENED), (120, lost), (130, {**OPENED, "round": 2}))
    assert waits(again, at(131)) == [f"round waits on {site}" for site in ("site-1", "site-2", "site-3")]


def test_a_site_that_its_operator_paused_or_withdrew_is_told_with_the_reason() -> None:
    paused = folded((0, {"event": "away", "member": "site-2", "reason": "RND-611"}))
    assert waits(paused, at(5)) == [
        "not waited for since 2026-01-01T00:00:00Z (5 s): site-2: its operator paused it (RND-611)"
    ]
    back = folded(
        (0, {"event": "away", "member": "site-2", "reason": "RND-611"}), (9, {"event": "back", "member": "site-2"})
    )
    assert waits(back, at(10)) == []
    lost = {**answered("site-2"), "outcome": "gone", "reason": "RND-612"}
    left = {"event": "left", "session": 4, "member": "site-2", "reason": "RND-612"}
    (told,) = [line for line in waits(folded((0, OPENED), (1, lost), (2, left)), at(3)) if "site-2" in line]
    assert told.endswith("site-2: its operator withdrew it (RND-612)")


def test_what_the_run_as_a_whole_waits_for_is_told() -> None:
    for what, said in (("members", "members to come"), ("witnesses", "witnesses to sign its log")):
        status = folded((0, {"event": "run-waits", "outcome": what, "waiting_for": ["site-1", "site-2"]}))
        assert waits(status, at(1)) == [f"the run waits for {said}: site-1, site-2"]
    assert waits(folded((0, {"event": "run-waits", "outcome": what, "waiting_for": ["a"]}), (1, OPENED)), at(1))[
        0
    ].startswith("round waits on site-1")


def test_a_state_that_was_refused_names_both_logs_until_the_run_recovered() -> None:
    held, offered = f"9:{'ab' * 32}", f"7:{'cd' * 32}"
    refused = {"event": "state-refused", "reason": "LOG-1011", "held": held, "offered": offered}
    (told,) = waits(folded((0, refused)), at(1))
    assert told == (
        "the run cannot go on from what its host offers (LOG-1011): a witness holds 9 leaves, abababababababab…, "
        "the host offers 7 leaves, cdcdcdcdcdcdcdcd…"
    )
    (missing,) = waits(folded((0, {"event": "state-refused", "reason": "LOG-1012"})), at(1))
    assert missing.endswith("offers (LOG-1012)")
    assert waits(folded((0, refused), (1, {"event": "recovered", "round": 1})), at(2)) == []


def test_a_paused_run_says_how_it_goes_on_and_one_that_is_over_waits_for_nobody() -> None:
    paused = folded((0, {"event": "run-started"}), (1, {"event": "run-paused"}))
    assert waits(paused, at(2)) == ["paused: no further round opens; cloister run resume lets it go on"]
    assert waits(folded((0, OPENED), (1, {"event": "run-ended", "outcome": "stopped"})), at(2)) == []


def test_the_screen_shows_it() -> None:
    progress = {"event": "progress", "round": 1, "member": "site-3", "outcome": "upload 62 %"}
    lost = answered("site-2", outcome="silent", reason="RND-610", seconds=120.0)
    status = folded((0, OPENED), (1, answered("site-1")), (10, progress), (20, lost))
    shown = io.StringIO()
    Console(file=shown, width=200).print(draw(status, PLAN, at(50)))
    assert "silent 40 s, round waits on site-3: upload at 62 %" in shown.getvalue()
    assert "site-2: its work stands still (RND-610)" in shown.getvalue()
