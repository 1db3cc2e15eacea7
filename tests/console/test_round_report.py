"""Where the time of each round went: told from the events of real runs, and from what a host may make of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from console.client import shown_fields
from console.output import Report
from console.round_report import Outcome, RoundSplit, split_rounds
from console.round_table import rounds_json, show_rounds
from coordinator.enclave.stages import WORKER_STAGES, Stages, read_stages
from coordinator.host.round_stages import AGGREGATOR_STAGES, STAGES
from coordinator.host.run_status import RunStatus
from softtee.chip import Chip, SoftwareRoot
from tests.world import Net, SimpleSite, World
from trusted.blob import BlobKind
from trusted.exchange import Exchanged

STATUS = RunStatus("11" * 32, bytes_in=3_000_000, bytes_out=5_000_000)
TOLD = {"broadcast": 0.1, "collect": 2.0, "fold": 0.3} | {
    f"{stage}.{of}": seconds
    for stage, seconds in (("download", 0.2), ("train", 0.4), ("seal", 0.05), ("upload", 0.9))
    for of in ("mean", "max")
}


@pytest.fixture(scope="module")
def world(software_root: SoftwareRoot, chip: Chip) -> World:
    """Four members and a plan of two rounds."""
    return World(software_root, chip)


@pytest.fixture(scope="module")
def ran(world: World) -> list[dict[str, Any]]:
    """The events of a run to its end, as a host shows them to a console."""
    net = Net(world)
    net.start()
    for index, member in enumerate(world.members):
        net.join(SimpleSite(world, member, has_initial=index == 0))
    return [dict(shown_fields(json.dumps({"event": name, **fields}), world.plan.digest)) for name, fields in net.events]


def test_the_stages_on_the_list_are_those_that_aggregators_tell(world: World) -> None:
    stages = Stages(world.now)
    for stage in AGGREGATOR_STAGES:
        stages.mark(stage, world.now)
    stages.add_worker(read_stages(dict.fromkeys(WORKER_STAGES, 1.5)))
    (split,) = split_rounds(told_events(stages=stages.to_json()), world.plan)
    assert tuple(split.stages) == STAGES
    assert set(stages.to_json()) == set(STAGES)


def told_events(number: int = 1, stages: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The events of one round that committed with one contribution."""
    return [
        {"event": "round-opened", "round": number, "bytes": 1000, "waiting_for": ["site-1", "site-2"]},
        {"event": "contribution", "round": number, "member": "site-1", "outcome": "counted"},
        {"event": "round-committed", "round": number},
        {"event": "round-stages", "round": number, "metrics": TOLD if stages is None else stages},
    ]


def test_every_round_of_a_run_is_split_and_its_bytes_are_those_of_its_blobs(
    world: World, ran: list[dict[str, Any]]
) -> None:
    rounds = split_rounds(ran, world.plan)
    assert [(split.number, split.outcome) for split in rounds] == [(1, Outcome.COMMITTED), (2, Outcome.COMMITTED)]
    exchanged = Exchanged.of(world.plan)
    for split in rounds:
        assert tuple(split.stages) == AGGREGATOR_STAGES  # these sites tell nothing of themselves
        assert split.seconds is not None
        updates = (exchanged.header(BlobKind.UPDATE, split.number, member).sealed_bytes for member in world.members)
        assert split.bytes_up == sum(updates)
        model = exchanged.header(BlobKind.MODEL, split.number, "aggregator")
        assert split.bytes_down == model.sealed_bytes * len(world.members)


def test_a_run_without_stages_is_told_as_one(
    world: World, ran: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = split_rounds([event for event in ran if event["event"] != "round-stages"], world.plan)
    show_rounds(Report(json_output=False), rounds, STATUS)
    said = capsys.readouterr().out
    assert "2 committed round(s) came without their stages" in said
    assert "median" not in said
    data = rounds_json(rounds, STATUS)
    assert data["medians"] == {"all": None, "warm": None}
    assert [entry["seconds"] for entry in data["rounds"]] == [None, None]
    assert data["rounds"][0]["bytes_up"] > 0


def test_the_longest_stage_is_what_everybody_else_waited_for(world: World) -> None:
    (split,) = split_rounds(told_events(), world.plan)
    assert split.seconds == pytest.approx(2.4)
    assert split.longest == "upload"
    assert split.waits["rest"] == pytest.approx(2.0 - 0.2 - 0.4 - 0.05 - 0.9)
    (idle,) = split_rounds(told_events(stages=TOLD | {"collect": 9.0}), world.plan)
    assert idle.longest == "rest"
    (folding,) = split_rounds(told_events(stages={"broadcast": 0.1, "collect": 0.2, "fold": 0.3}), world.plan)
    assert folding.longest == "fold"  # of a round that no worker told anything about


def test_throughput_is_bytes_both_ways_over_the_round(world: World) -> None:
    (split,) = split_rounds(told_events(), world.plan)
    update = Exchanged.of(world.plan).header(BlobKind.UPDATE, 1, "site-1").sealed_bytes
    assert (split.bytes_down, split.bytes_up) == (2000, update)
    assert split.bytes_per_s == pytest.approx((2000 + update) / 2.4)


def test_a_round_that_was_abandoned_or_is_open_has_no_seconds(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    events = [
        {"event": "round-opened", "round": 1, "bytes": 1000, "waiting_for": ["site-1"]},
        {"event": "round-abandoned", "round": 1},
        {"event": "round-opened", "round": 2, "bytes": 1000, "waiting_for": ["site-1"]},
    ]
    rounds = split_rounds(events, world.plan)
    assert [(split.outcome, split.seconds) for split in rounds] == [(Outcome.ABANDONED, None), (Outcome.OPEN, None)]
    show_rounds(Report(json_output=False), rounds, STATUS)
    said = capsys.readouterr().out
    assert "1 abandoned" in said
    assert "2 open" in said
    assert "came without their stages" not in said


def test_a_round_that_opens_again_after_a_restart_stands_there_again(world: World) -> None:
    rounds = split_rounds([*told_events(), *told_events()], world.plan)
    assert [split.number for split in rounds] == [1, 1]
    assert rounds[0] == rounds[1]


def test_a_list_of_sites_that_was_too_long_to_show_counts_as_the_plans_cohort(world: World) -> None:
    opened = {"event": "round-opened", "round": 1, "bytes": 1000}
    (split,) = split_rounds([opened], world.plan)
    assert split.bytes_down == 1000 * world.plan.document.cohort.size


@pytest.mark.parametrize("wrong", [-1, 1e300, 10**400])
def test_seconds_that_no_stage_has_are_not_told(world: World, wrong: float) -> None:
    (split,) = split_rounds(told_events(stages=TOLD | {"fold": wrong, "lunch": 1.0}), world.plan)
    assert "fold" not in split.stages
    assert "lunch" not in split.stages
    assert split.seconds is None


@pytest.mark.parametrize("member", ["stranger", "x" * 96, None])
def test_an_update_of_nobody_in_the_plan_counts_no_bytes(world: World, member: str | None) -> None:
    counted = {"event": "contribution", "round": 1, "member": member, "outcome": "counted"}
    opened = told_events()[0]
    assert split_rounds([opened, counted], world.plan)[0].bytes_up == 0
    assert split_rounds([opened, counted | {"member": "site-1"}], world.plan)[0].bytes_up > 0
    refused = counted | {"member": "site-1", "outcome": "refused"}
    assert split_rounds([opened, refused], world.plan)[0].bytes_up == 0


def test_events_of_no_opened_round_make_no_round(world: World) -> None:
    assert split_rounds(told_events()[1:], world.plan) == []
    assert split_rounds([{"event": "round-opened"}], world.plan) == []


def test_medians_are_told_with_and_without_the_first_round(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (split,) = split_rounds(told_events(), world.plan)
    rounds = [replace(split, number=number, stages=_scaled(split, by)) for number, by in ((1, 10), (2, 1), (3, 3))]
    data = rounds_json(rounds, STATUS)
    assert data["medians"]["all"]["seconds"] == pytest.approx(7.2)
    assert data["medians"]["warm"]["seconds"] == pytest.approx(4.8)
    assert data["totals"]["seconds"] == pytest.approx(14 * 2.4)
    assert data["totals"]["host_bytes_in"] == 3_000_000
    json.dumps(data, allow_nan=False)
    show_rounds(Report(json_output=False), rounds, STATUS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["round", "seconds", "broadcast", "download"]
    assert [line.split()[:2] for line in lines[4:6]] == [["median", "7.200"], ["warm", "4.800"]]
    assert "The host counted 3 MB in and 5 MB out" in "\n".join(lines)


def test_a_run_without_rounds_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show_rounds(Report(json_output=False), [], STATUS)
    assert capsys.readouterr().out == "No round has been opened yet.\n"


def _scaled(split: RoundSplit, by: float) -> dict[str, float]:
    return {stage: seconds * by for stage, seconds in split.stages.items()}


def test_the_rounds_seconds_are_those_of_the_aggregators_stages(world: World) -> None:
    for left_out in AGGREGATOR_STAGES:
        stages = {stage: seconds for stage, seconds in TOLD.items() if stage != left_out}
        assert split_rounds(told_events(stages=stages), world.plan)[0].seconds is None
