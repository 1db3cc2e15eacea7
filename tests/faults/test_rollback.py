"""A host that lies about the past, over real processes: refused and named, and the run goes on with the right disk."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.federation import MEMBERS
from trusted.errors import Reason

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def told(run_module: Any, case: str) -> dict[str, Any]:
    """What became of one case."""
    (said,) = run_module(".rollback", case)
    assert said["rounds"] == 3
    return dict(said)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("old disk", Reason.STATE_MISSING),
        ("deleted state", Reason.STATE_MISSING),
        ("withheld checkpoint", Reason.STATE_MISSING),
        ("state of another plan", Reason.STATE_ROLLBACK),
    ],
)
def test_a_disk_that_is_not_the_newest_is_refused_and_the_right_one_goes_on(run_module, case, reason) -> None:
    said = told(run_module, case)
    assert said["reason"] == reason.code
    assert said["moved"] == []
    assert said["same"]


def test_a_fork_without_a_quorum_of_witnesses_does_nothing_and_its_site_comes_back(run_module) -> None:
    said = told(run_module, "two forks")
    assert said["waits"] == list(MEMBERS[:2])
    assert said["moved"] == []
    assert said["same"]


def test_an_update_of_an_earlier_round_in_the_place_of_a_later_one_is_refused(run_module) -> None:
    said = told(run_module, "replayed fold")
    assert (said["outcome"], said["reason"]) == ("refused", Reason.BLOB_ROUND.code)
    assert not said["same"]  # the round went on without that site, and everybody knows
