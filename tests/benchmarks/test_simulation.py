"""The comparison of simulators: the same work for each, nothing hidden, nothing done twice. No time is asserted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.peers.environments import Requirement
from benchmarks.peers.load import PeerFailed
from benchmarks.simulation import command
from benchmarks.simulation.asked import Asked, Found, seconds_between
from benchmarks.simulation.command import Comparison, cohorts
from benchmarks.simulation.standing import Journal, Measured, in_words, to_json
from benchmarks.simulation.tool import LOOP, POOL, SMALL, TOOLS, Tool
from benchmarks.simulation.work import Work, norm, read_rows, write_rows
from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.simulation import Simulation
from simulations.tasks.function import Function

WORK = Work("mlp", sites=6, cohort=3, rounds=2, rows=64, batch=16)


def run(tool: str, work: Work = WORK, *, repeat=1, rate=10.0, whole=10.0, peak_mb=100.0, norm=1.0) -> Measured:
    found = Found((work.cohort / rate,) * work.rounds, norm)
    return Measured(tool, "", work, repeat, 0.0, found, work.clients / whole, peak_mb)


def summary(tmp_path, *runs: Measured, skipped=()):
    journal = Journal.open(tmp_path)
    for each in runs:
        journal.add(each)
    return to_json(journal, list(TOOLS.values()), skipped) | {"out": str(tmp_path)}, journal


@pytest.mark.slow
def test_the_bare_loop_and_each_engine_compute_the_same_model(tmp_path):
    comparison = Comparison(Journal.open(tmp_path / "out"), tmp_path / "cache", 200.0)
    chosen = [TOOLS[name] for name in (LOOP, POOL, "cloister-pool-batched", "cloister-in-process")]
    for tool in comparison.install(chosen):
        comparison.measure(tool, WORK, 1)
    assert [run.tool for run in comparison.journal.runs] == [tool.name for tool in chosen]
    assert all(len(run.found.round_s) == WORK.rounds and run.peak_mb >= 0 for run in comparison.journal.runs)
    norms = [run.found.norm for run in comparison.journal.runs]
    assert norms == pytest.approx([norms[0]] * 4, rel=1e-5)
    assert to_json(comparison.journal, chosen, ())["norms_differ"] == []


@pytest.mark.slow
def test_a_tool_that_fails_is_reported_and_not_tried_again(tmp_path, capsys):
    comparison = Comparison(Journal.open(tmp_path / "out"), tmp_path / "cache", 60.0)
    broken = Tool("broken", "no such module", "astrology")
    for repeat in (1, 2):
        comparison.measure(broken, WORK, repeat)
    assert len(comparison.journal.failures) == 1
    assert "broken" in str(comparison.journal.failures[0])
    assert "astrology" in comparison.journal.failures[0].log


def test_a_peer_that_does_not_install_is_named_and_the_command_fails(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise PeerFailed("No matching distribution")

    monkeypatch.setattr(command, "prepare", refuse)
    asked = ["simulation", "--json", "--quick", "--peers", "pfl", "--out", str(tmp_path)]
    assert main(asked) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["status"] == "error"
    assert "No matching distribution" in printed["error"]["message"]
    assert printed["data"]["failures"][0]["tool"] == "pfl"


def test_every_peer_brings_its_own_version_of_torch_first():
    peers = [tool for tool in TOOLS.values() if tool.is_peer]
    assert {tool.name for tool in peers} == {"pfl", "flower", "nvflare", "openfl"}
    assert all(isinstance(tool.requirement, Requirement) and tool.requirement.first for tool in peers)


def test_an_unknown_tool_is_one_sentence(capsys):
    assert main(["simulation", "--peers", "abacus"]) == 1
    assert "abacus" in capsys.readouterr().err


def test_all_tools_get_the_cohorts_that_a_simulation_draws():
    rows = Dataset({"x": np.zeros(6, np.float32)})
    function = Function(lambda arrays, *_: (arrays, {}), {"w": np.zeros(1, np.float32)})
    partition = Partition.of(np.split(np.arange(6), 6))
    result = Simulation(function, rows, partition, rounds=2, cohort=3, engine="in-process").run()
    drawn = [tuple(partition.names.index(name) for name in row.drawn) for row in result.rounds]
    assert list(cohorts(WORK)) == drawn


@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_a_sites_rows_follow_from_its_number(tmp_path, model):
    few, more = replace(WORK, model=model, sites=2, rows=5), replace(WORK, model=model, sites=3, rows=5)
    for work in (few, more):
        write_rows(tmp_path, work)
    (features, labels), (longer, marks) = read_rows(tmp_path, few), read_rows(tmp_path, more)
    np.testing.assert_array_equal(features, longer[:2])
    np.testing.assert_array_equal(labels, marks[:2])
    assert not np.array_equal(longer[1], longer[2])
    assert features.dtype == np.float32


def test_rows_that_are_there_are_not_written_again(tmp_path):
    write_rows(tmp_path, WORK)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write_rows(tmp_path, WORK)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_what_is_asked_and_found_crosses_as_files(tmp_path):
    asked = Asked(WORK, tuple(cohorts(WORK)), tmp_path, 2, {"engine": "pool"})
    assert Asked.read(str(asked.write(tmp_path))) == asked
    assert Found.read(tmp_path) is None
    found = Found(seconds_between([1.0, 1.5, 3.0]), norm([np.array([3.0]), np.array([4.0])]))
    found.write(str(tmp_path / "asked.json"))
    assert Found.read(tmp_path) == found == Found((0.5, 1.5), 5.0)


def test_a_journal_goes_on_where_it_was_left(tmp_path):
    Journal.open(tmp_path).add(run(LOOP))
    again = Journal.open(tmp_path)
    assert again.runs == [run(LOOP)]
    assert again.has(LOOP, WORK, 1)
    assert not again.has(LOOP, WORK, 2)
    assert not again.has(LOOP, replace(WORK, rounds=3), 1)
    assert not again.has(POOL, WORK, 1)


def test_ratios_are_of_medians_and_of_our_best_setting(tmp_path):
    data, journal = summary(
        tmp_path,
        *(run(LOOP, repeat=at, rate=rate) for at, rate in enumerate((10.0, 10.0, 90.0))),
        run(POOL, rate=9.0, peak_mb=50.0),
        run("cloister-pool-batched", rate=20.0, whole=8.0),
        run("pfl", rate=8.0),
        run("flower", rate=1.0, whole=2.0),
    )
    assert data["clients_per_s"]["mlp"][LOOP] == 10.0
    found = {target["what"]: (target["found"], target["met"]) for target in data["targets"]}
    assert found["mlp: batched / bare loop"] == (2.0, True)
    assert found["mlp: float32 / pfl"] == (2.5, True)
    assert found["mlp: whole run / Flower"] == (5.0, True)
    assert found["mlp: float32 / NVFlare"] == (None, None)
    assert found["mlp: memory of pfl / ours"] == (2.0, True)
    assert "cloister-pool-batched" in in_words(data, journal)


def test_openfls_federation_is_for_memory_alone_and_opt_ins_stand_beside_equal_precision(tmp_path):
    cnn = replace(WORK, model="cnn")
    data, _ = summary(
        tmp_path,
        run(POOL, cnn, rate=6.0, peak_mb=80.0),
        run("cloister-pool-bfloat16", cnn, rate=12.0),
        run(SMALL, cnn, rate=99.0, peak_mb=20.0),
        run("openfl", cnn, rate=2.0, peak_mb=40.0),
    )
    found = {target["what"]: (target["found"], target["met"]) for target in data["targets"]}
    assert found["cnn: float32 / OpenFL"] == (3.0, False)
    assert found["cnn: with opt-ins / OpenFL"] == (6.0, True)
    assert found["cnn: memory of openfl / ours"] == (0.5, False)
    assert found["cnn: memory of openfl / ours with as many sites"] == (2.0, True)
    assert found["mlp: memory of openfl / ours with as many sites"] == (None, None)


def test_a_tool_with_another_final_model_is_named(tmp_path):
    data, journal = summary(
        tmp_path, run(LOOP), run(POOL, norm=1.00001), run("pfl", norm=1.1), run("nvflare", norm=0.0)
    )
    assert [line.partition(",")[0] for line in data["norms_differ"]] == ["pfl"]
    assert "ANOTHER MODEL pfl" in in_words(data, journal)


def test_memory_of_a_larger_population_is_held_against_a_smaller_ones(tmp_path):
    large = replace(WORK, sites=60, rows=6)
    data, _ = summary(tmp_path, run("population-6", peak_mb=100.0), run("population-60", large, peak_mb=120.0))
    assert data["population_peak_mb"] == {"6": 100.0, "60": 120.0}
    assert data["targets"][-1]["met"] is False
    assert data["clients_per_s"] == {}


def test_opt_ins_that_the_processor_has_not_are_said(tmp_path):
    data, journal = summary(tmp_path, run(LOOP), skipped=["cloister-pool-bfloat16"])
    assert "no bfloat16 in this processor: cloister-pool-bfloat16" in in_words(data, journal)
