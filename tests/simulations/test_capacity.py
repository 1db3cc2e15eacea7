"""Predictions follow from costs as the module says, and say what they do not cover."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from console.output import UserError
from simulations.capacity.costs import Costs
from simulations.capacity.error import ERROR
from simulations.capacity.links import NAMED, Link, read_link
from simulations.capacity.prediction import CALLS, CALLS_OF_A_PHASE, Federation, predict
from trusted.documents.terms import Rule
from trusted.encoding import Encoding

COSTS = Costs(seal=2e9, open=2e9, check=1e9, fold=1e9, socket=2e9, disk=2e9, down=1e9, up=1e9, call_s=1e-3, cores=2)
SLOW, FAST = Link(10e6, 1e6, 0.05), Link(1e9, 1e9, 0.0)


def federation(sites: int = 100, megabytes: float = 100.0, **changes: object) -> Federation:
    return Federation(sites, megabytes * 1e6, site_link=SLOW, host_link=FAST, **changes)  # type: ignore[arg-type]


def test_a_broadcast_is_sealed_and_sent_once_whatever_the_cohort() -> None:
    waited = CALLS_OF_A_PHASE * COSTS.call_s
    for sites in (1, 10, 1000):
        found = predict(federation(sites), COSTS)
        assert found.phases_s["broadcast"] == pytest.approx(100e6 * (1 / 2e9 + 1 / 2e9) + waited)


def test_one_site_waits_for_its_own_link_alone() -> None:
    found = predict(federation(1, train_s=30.0), COSTS)
    link = 100e6 / 10e6 + 100e6 / 1e6
    assert found.phases_s["collect"] == pytest.approx(link + 30, abs=1.5)


def test_more_sites_than_places_wait_for_places() -> None:
    found = predict(federation(800), COSTS)
    assert found.bottleneck == "host's places for transfers"
    assert found.busy_s[found.bottleneck] == pytest.approx(800 / 8 * 100)
    assert predict(federation(800, transfers=800), COSTS).round_s < found.round_s / 20


def test_more_hosts_take_work_from_each() -> None:
    one, four = (predict(federation(1000, transfers=1000, host_cores=hosts), COSTS) for hosts in (1, 4))
    assert four.busy_s["host's processor"] == pytest.approx(one.busy_s["host's processor"] / 4)


def test_each_host_holds_what_its_own_sites_move() -> None:
    """docs/benchmarks.md: 94 MB with 8 workers of 100 MB, 100 with 64 of 10, 178 with 1,000 of 1."""
    assert predict(federation(8), COSTS).memory_mb["host"] == pytest.approx(94, rel=0.05)
    assert predict(federation(64, 10), COSTS).memory_mb["host"] == pytest.approx(100, rel=0.05)
    assert predict(federation(1000, 1), COSTS).memory_mb["host"] == pytest.approx(178, rel=0.05)
    assert predict(federation(640, 10, host_cores=10), COSTS).memory_mb["host"] == pytest.approx(100, rel=0.05)


def test_training_is_added_once_not_for_each_site() -> None:
    idle, busy = (predict(federation(50, train_s=seconds), COSTS).round_s for seconds in (0.0, 60.0))
    assert busy - idle == pytest.approx(60)


def test_small_models_cost_what_calls_cost() -> None:
    found = predict(Federation(1000, 4.0), COSTS)
    assert found.phases_s["collect"] == pytest.approx(1000 * CALLS * COSTS.call_s, rel=0.1)


def test_an_encoding_shortens_what_goes_up_alone() -> None:
    full, quarter = (predict(federation(update=each), COSTS) for each in (Encoding.FLOAT32, Encoding.INT8))
    assert quarter.traffic_mb["each site up"] == pytest.approx(full.traffic_mb["each site up"] / 4, rel=0.01)
    assert quarter.traffic_mb["each site down"] == full.traffic_mb["each site down"]
    assert quarter.round_s < full.round_s


def test_an_aggregators_memory_is_two_models_whatever_the_cohort() -> None:
    """docs/benchmarks.md: 278 to 281 MB for 2 to 64 workers of 100 MB; 8,080 MB for one model of 4,000 MB."""
    for sites in (2, 64):
        assert predict(federation(sites), COSTS).memory_mb["aggregator"] == pytest.approx(279, rel=0.05)
    assert predict(federation(2, 4000.0), COSTS).memory_mb["aggregator"] == pytest.approx(8080, rel=0.02)
    adam = predict(federation(2, moments=2), COSTS).memory_mb["aggregator"]
    assert adam == pytest.approx(predict(federation(2), COSTS).memory_mb["aggregator"] + 200)


def test_what_plan_or_host_would_refuse_is_said() -> None:
    assert predict(federation(8), COSTS).notes == ()
    told = " ".join(predict(federation(10_000, 70_000.0, rule=Rule.MEDIAN), COSTS).notes)
    for words in ("1,024 members", "8.6 GB in float32", "limits.spool_bytes", "compares at most 256"):
        assert words in told


@pytest.mark.parametrize(
    "changes", [{"sites": 0}, {"megabytes": 0.0}, {"train_s": -1.0}, {"host_cores": 0}, {"transfers": 0}]
)
def test_a_federation_that_is_none_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="capacity"):
        federation(**changes)  # type: ignore[arg-type]


def test_links_are_names_or_figures() -> None:
    assert read_link("dsl") is NAMED["dsl"]
    assert read_link("100mbit") == Link(12.5e6, 12.5e6, 0.0)
    assert read_link("50/10Mbit,30ms") == Link(6.25e6, 1.25e6, 0.03)
    assert read_link("1.5gbit").down == 187.5e6


@pytest.mark.parametrize(
    "text", ["", "fast", "100", "100mb", "0mbit", "50/0mbit", "50mbit,30", "-1mbit", "1mbit,5ms,5ms"]
)
def test_a_link_that_does_not_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="one of dsl"):
        read_link(text)


def test_costs_read_back_as_they_were(tmp_path: Path) -> None:
    COSTS.save(tmp_path / "costs.json")
    assert Costs.read(tmp_path / "costs.json") == COSTS


def test_a_file_without_costs_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    replace(COSTS, seal=0.0).save(path)
    for text in (path.read_text(), "", "{}", "[]"):
        path.write_text(text)
        with pytest.raises(UserError, match="no measured costs"):
            Costs.read(path)


def test_costs_are_measured() -> None:
    """Small, since times mean nothing here: that every stage is there."""
    found = Costs.measure(seconds=0.0, megabytes=2)
    assert all(value > 0 for name, value in found.to_json().items() if name != "processor")
    assert predict(Federation(8, 1e6), found).round_s > 0


def test_the_error_is_said() -> None:
    assert f"{ERROR.median:.1f}" in ERROR.says
    assert ERROR.worst >= ERROR.median >= 1
