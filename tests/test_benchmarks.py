"""The benchmarks run and say what they measured. No time is asserted: machines differ, and ours are shared."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

import pytest

from benchmarks.__main__ import main
from benchmarks.consortium import Admission
from simulations.costs.measured import Measurement, measure
from softtee.chip import SoftwareRoot
from trusted.channel.transcript import AGGREGATOR, WORKER
from trusted.errors import ProtocolError


def test_an_admission_in_memory_is_a_whole_one(software_root: SoftwareRoot, now: datetime) -> None:
    federated = Admission.of(software_root, now)
    for _ in range(2):
        federated.admit()
    swapped = {AGGREGATOR: federated.identities[WORKER], WORKER: federated.identities[AGGREGATOR]}
    with pytest.raises(ProtocolError):
        replace(federated, identities=swapped).admit()


def test_a_measurement_repeats_and_reckons() -> None:
    runs: list[None] = []
    found = measure("nothing", lambda: runs.append(None), 0.0)
    assert len(found.seconds) == len(runs) - 1 == 5
    reckoned = Measurement("half", (0.001, 0.001, 0.001, 0.002), 1.5)
    assert reckoned.per_second == pytest.approx(800)
    assert reckoned.median_ms == pytest.approx(1)
    assert reckoned.to_json()["cost_table_ms"] == 1.5


@pytest.mark.slow
def test_the_benchmark_prints_one_object_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attestation", "--json", "--seconds", "0.01"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)["data"]["measurements"]
    whats = [item["what"] for item in found]
    assert any(what.startswith("verify snp") for what in whats)
    assert any(what.startswith("admit one worker") for what in whats)
    assert all(item["per_second_and_core"] > 0 for item in found)
    assert len(printed.err.splitlines()) == len(found) + 1


def test_an_unknown_benchmark_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as left:
        main(["astrology"])
    assert left.value.code == 2
