"""Where the time goes, in the host's metrics: stages of rounds, and uploads that wait for their turn."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.host.events import public_event
from coordinator.host.metrics import HostMetrics
from coordinator.host.round_stages import STAGES
from coordinator.host.turns import Turns
from tests.host.conftest import PLAN
from tests.world import NOW


def observed(**metrics: object) -> HostMetrics:
    """The metrics of a host to which one ``round-stages`` was told."""
    made = HostMetrics()
    made.observe_event(public_event({"event": "round-stages", "round": 1, "metrics": metrics}, plan=PLAN, now=NOW))
    return made


def seconds(metrics: HostMetrics, stage: str) -> float | None:
    return metrics.registry.get_sample_value("cloister_round_stage_seconds_sum", {"stage": stage})


def test_every_stage_of_a_round_is_observed_once() -> None:
    metrics = observed(**dict.fromkeys(STAGES, 0.25))
    assert {stage: seconds(metrics, stage) for stage in STAGES} == dict.fromkeys(STAGES, 0.25)
    value = metrics.registry.get_sample_value
    assert value("cloister_round_duration_seconds_sum") == 0.75  # broadcast, collect and fold
    assert value("cloister_round_duration_seconds_count") == 1


@pytest.mark.parametrize("stage", ["lunch", "train", "train.min", "fold.max"])
def test_a_stage_that_is_not_on_the_list_makes_no_label(stage: str) -> None:
    metrics = observed(**{stage: 1.0, "fold": 2.0})
    assert seconds(metrics, stage) is None
    assert seconds(metrics, "fold") == 2.0


@pytest.mark.parametrize("wrong", [-0.001, 1e7 + 1, float("nan"), float("inf"), "1", True])
def test_seconds_that_no_stage_has_are_not_observed(wrong: object) -> None:
    metrics = observed(fold=wrong)
    assert seconds(metrics, "fold") is None
    assert metrics.registry.get_sample_value("cloister_round_duration_seconds_count") == 0


def test_stages_in_another_event_are_not_observed() -> None:
    made = HostMetrics()
    made.observe_event(public_event({"event": "round-committed", "metrics": {"fold": 1.0}}, plan=PLAN, now=NOW))
    assert seconds(made, "fold") is None


async def _turns(waiting_s: float) -> list[float]:
    """What three uploads waited for the one turn there is, each holding it for ``waiting_s``."""
    waited: list[float] = []
    turns = Turns(1, 120.0, waited=waited.append)

    async def upload() -> None:
        await turns.take()
        await asyncio.sleep(waiting_s)
        turns.give_back()

    await asyncio.gather(upload(), upload(), upload())
    return waited


def test_uploads_that_wait_for_their_turn_are_counted_and_the_first_is_not() -> None:
    first, second = asyncio.run(_turns(0.05))
    assert 0.04 < first < second


async def _given_up() -> tuple[list[float], bool]:
    waited: list[float] = []
    turns = Turns(1, 120.0, waited=waited.append)
    await turns.take()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(turns.take(), 0.05)
    turns.give_back()
    return waited, turns.wanted


def test_an_upload_that_gives_up_waiting_is_counted_and_holds_no_turn() -> None:
    waited, wanted = asyncio.run(_given_up())
    assert len(waited) == 1
    assert not wanted
