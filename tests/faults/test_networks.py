"""Bad lines: whatever they lose, delay, swallow or forget, the run ends with the same model and nobody works twice.

Sites live in network namespaces, and TCP, TLS and gRPC are real. Keepalive is scaled down from 10 + 20 s to 1.5 + 3 s.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.faults.networks import BIG, CASES, WINDOW_BYTES
from tests.faults.outcomes import json_lines
from tests.faults.wires import namespace_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_OVERHEAD = 1.06  # headers of IP, TCP and TLS, acknowledgements, and the frames of the session


def in_a_network_of_its_own(*arguments: str) -> dict[str, dict[str, Any]]:
    """What cases of ``python -m tests.faults.networks`` say; skipped, and why, where no namespaces may be made."""
    command, why_not = namespace_command()
    if why_not:
        pytest.skip(why_not)
    said = json_lines(*command, sys.executable, "-m", "tests.faults.networks", *arguments)
    return {one["case"]: one for one in said}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    """Every case, run once in one process of its own."""
    return in_a_network_of_its_own(*CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_run_ends_with_the_model_of_good_lines_and_no_site_works_twice(outcomes, case: str) -> None:
    said = outcomes[case]
    print(said)
    assert said["passed"], said["why"]
    assert said["trained"] > 0
    assert said["repeated"] == 0
    if case != "partition_that_lasts":  # there a round was closed without one site: its work came too late
        assert said["wasted_s"] == 0


def test_lines_that_lose_and_delay_did(outcomes) -> None:
    assert outcomes["loss_and_delay"]["packets_lost"] > 10


def test_a_site_that_was_cut_off_in_a_round_comes_back_into_it(outcomes) -> None:
    assert outcomes["partition_that_heals"]["came_back"]


def test_a_round_closes_without_a_site_that_stays_away_shows_why_and_the_next_ones_have_it_again(outcomes) -> None:
    said = outcomes["partition_that_lasts"]
    rounds = dict(said["rounds"])
    assert said["away"]
    assert said["shown"] == "CHN-407"
    assert rounds[1] == ["site-1", "site-2"]
    assert rounds[max(rounds)] == ["site-1", "site-2", "site-3"]


def test_a_vpn_that_drops_costs_no_more_than_what_was_on_its_way(outcomes) -> None:
    said, both_rounds = outcomes["vpn_drop"], 2 * 4 * BIG.elements
    assert said["cuts"] >= 2  # one by each drop; a machine that is busy may miss a ping besides
    for carried in said["carried"].values():
        assert both_rounds < carried < _OVERHEAD * both_rounds + said["cuts"] * WINDOW_BYTES


def test_a_connection_that_a_middlebox_forgot_is_noticed_and_made_again_while_the_site_trains(outcomes) -> None:
    assert outcomes["forgotten_connection"]["back_s"] < 15


@pytest.mark.timeout(900)
def test_with_keepalive_as_shipped_a_forgotten_connection_is_noticed_within_its_two_times(request) -> None:
    if not request.config.getoption("--schedules", default=0):
        pytest.skip("a minute and a half: with the long suite, --schedules N")
    said = in_a_network_of_its_own("forgotten_for_long", "--unscaled")["forgotten_for_long"]
    assert said["passed"], said["why"]
    assert said["back_s"] < 45
