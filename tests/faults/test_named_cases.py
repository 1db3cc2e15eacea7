"""What cost others a run, or days of one, replayed over real processes; and the site-hours that it wastes here: none.

``docs/negative-tests.md`` has the table. Times are scaled: seconds stand for the minutes and hours of the originals.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.faults.named_cases import CASES
from tests.faults.outcomes import json_lines
from tests.faults.wires import namespace_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

Outcomes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    """Every case, run once in one process of its own; the table of what it cost."""
    command, why_not = namespace_command()
    if why_not:
        pytest.skip(why_not)
    said = json_lines(*command, sys.executable, "-m", "tests.faults.named_cases")
    for one in (one for one in said if one["passed"]):
        print(f"{one['case']:<14} {one['trained']:>3} trainings, {one['worked_s']:>6.2f} s; wasted {one['wasted_s']} s")
    return {one["case"]: one for one in said}


def case(outcomes: Outcomes, name: str) -> dict[str, Any]:
    """What became of case ``name``, which wasted nobody's work."""
    said = outcomes[name]
    assert said["passed"], said["why"]
    assert said["trained"] > 0
    assert (said["repeated"], said["wasted_s"]) == (0, 0)
    return said


def test_every_case_is_replayed(outcomes: Outcomes) -> None:
    assert tuple(outcomes) == CASES


def test_mediswarm_346_the_hiccup_of_one_site_costs_nobody_anything(outcomes: Outcomes) -> None:
    """There the line of one of eight sites dropped, and all lost the run: 17.5 hours, at round 10 of 20.

    Here it trains on, comes back into the round, and the model is that of good lines, bit for bit.
    """
    case(outcomes, "mediswarm_346")


def test_mediswarm_466_a_message_that_is_lost_is_missed_and_said_again(outcomes: Outcomes) -> None:
    """There a control message was sent once and lost, and time limits of 100 hours made that a silent hang.

    Here frames vanish on their way to sites: the next challenge shows it, sessions begin anew, nobody trains twice.
    """
    said = case(outcomes, "mediswarm_466")
    assert said["sessions_lost"] > 0
    assert [members for _, members in said["rounds"]] == [["site-1", "site-2", "site-3"]] * 2


def test_flip_684_an_update_that_arrived_counts_though_its_answer_did_not(outcomes: Outcomes) -> None:
    """There an update of 758 MB had arrived, its acknowledgement timed out, and the run died; the queue hung for hours.

    Here the site asks how far its upload is, sends no byte of it again, and it counts in its round.
    """
    said = case(outcomes, "flip_684")
    assert said["blob"] < said["sent"] < 1.5 * said["blob"]


def test_flip_763_a_site_that_leaves_for_good_stops_nobody(outcomes: Outcomes) -> None:
    """There the least number of clients was wired to all sites, so one that left ended the run for everybody.

    Here the plan says how many are enough: the others come to the end of the run, and all that they did counts.
    """
    rounds = dict(case(outcomes, "flip_763")["rounds"])
    assert rounds[1] == ["site-1", "site-2", "site-3"]
    assert rounds[max(rounds)] == ["site-1", "site-2"]


def test_flip_992_a_run_that_waits_says_for_whom_and_goes_on_when_they_come(outcomes: Outcomes) -> None:
    """There a run waited for a second node for ever, and on the screen that was slow training.

    Here it says from the beginning that it waits, and for whom; when they come it goes on by itself.
    """
    assert set(case(outcomes, "flip_992")["waited_for"]) >= {"site-2", "site-3"}


def test_nvflare_4209_one_site_that_never_comes_does_not_abort_the_first_round(outcomes: Outcomes) -> None:
    """There one of 144 clients was missing on a supercomputer, and round 0 was aborted with it.

    Here the first round opens with those who are there once one lease has passed, and the run ends with them.
    """
    rounds = case(outcomes, "nvflare_4209")["rounds"]
    assert [members for _, members in rounds] == [["site-1", "site-2"]] * 2


def test_mediswarm_449_a_host_that_starts_anew_is_the_one_that_sites_know(outcomes: Outcomes) -> None:
    """There every build drew a new root certificate, and the partners got a new kit almost weekly.

    Here the host is killed in a round and started again: the CA that sites pinned is the same one.
    """
    assert case(outcomes, "mediswarm_449")["same_ca"]
