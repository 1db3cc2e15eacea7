"""The peers themselves are slow and want installing; here is what surrounds them: failures, logs, ratios, the plot."""

from __future__ import annotations

import argparse
import ensurepip
import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.command import BenchmarkError
from benchmarks.peers.cloister import cloister
from benchmarks.peers.command import BENCHMARK, PEERS, Comparison
from benchmarks.peers.comparison import Failure, Run, in_words, standings
from benchmarks.peers.environments import Environment, Requirement, prepare
from benchmarks.peers.load import Load, PeerFailed, Rounds
from benchmarks.peers.nvflare import _marks_of
from benchmarks.peers.openfl import _marks
from benchmarks.peers.peer import Peer, Site, intervals
from benchmarks.peers.plot import plot
from benchmarks.peers.processes import Family

LOAD = Load(workers=2, megabytes=1, rounds=3, timeout_s=30)
LARGE = replace(LOAD, megabytes=100)
HERE = Environment(Path(sys.executable), "1.0")


def _peer(name: str, *seconds: float) -> Peer:
    """A peer whose every run takes the next of ``seconds``; it fails when there is none left."""
    left = iter(seconds)

    def drive(site: Site, load: Load) -> Rounds:
        taken = next(left, None)
        if taken is None:
            raise PeerFailed("its server ended", "--- server.log\nout of luck")
        return Rounds("1.0", (taken, taken * 2, taken * 3), {"server": 10.0, "job": 5.0})

    return Peer(name, "in memory", None, drive)


def _fake(behaviour: str) -> Callable[[Site, Load], Rounds]:
    return cloister([sys.executable, str(Path(__file__).with_name("fake_rounds.py")), behaviour])


def _site(tmp_path: Path) -> Site:
    return Site(HERE, tmp_path, tmp_path)


def _options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    BENCHMARK.add_options(parser)
    return parser.parse_args(arguments)


def test_ratios_are_of_medians_under_the_same_load(tmp_path: Path) -> None:
    comparison = Comparison(tmp_path)
    ready = {_peer("flower", 10, 30, 20): HERE, _peer("cloister", 1, 2, 3): HERE}
    for repeat in (1, 2, 3):
        comparison.measure(ready, LOAD, repeat)
    theirs, ours = standings(comparison.runs)
    assert (theirs.peer, theirs.round_s, theirs.fastest_s, theirs.slowest_s) == ("flower", 40, 10, 90)
    assert (theirs.times_reference, ours.times_reference) == (10, 1)
    assert (theirs.server_mb, theirs.repeats) == (15, 3)
    assert [run.repeat for run in comparison.runs] == [1, 1, 2, 2, 3, 3], "repeats are interleaved"


def test_without_cloister_under_that_load_there_is_no_ratio(tmp_path: Path) -> None:
    runs = [
        Run("flower", LOAD, 1, 0.0, Rounds("1", (1.0,), {})),
        Run("cloister", LARGE, 1, 0.0, Rounds("1", (1.0,), {})),
    ]
    assert {standing.peer: standing.times_reference for standing in standings(runs)} == {"cloister": 1, "flower": None}


def test_a_failing_peer_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    comparison = Comparison(tmp_path)
    ready = {_peer("flower", 1): HERE, _peer("openfl"): HERE, _peer("cloister", 1, 1, 1): HERE}
    for repeat in (1, 2, 3):
        comparison.measure(ready, LOAD, repeat)
    failed = [failure.peer for failure in comparison.failures]
    assert failed == ["openfl", "openfl", "flower", "flower"], "tried twice, and then not again under this load"
    found = standings(comparison.runs)
    assert [(standing.peer, standing.repeats) for standing in found] == [("flower", 1), ("cloister", 3)]
    words = in_words(found, comparison.failures)
    assert words.count("FAILED openfl, 2 x 1 MB: its server ended\n--- server.log\nout of luck") == 2
    assert words.count("FAILED flower") == 2


def test_what_never_worked_is_missing_and_what_worked_once_is_not(tmp_path: Path) -> None:
    comparison = Comparison(tmp_path)
    ready = {_peer("flower", 1): HERE, _peer("openfl"): HERE}
    for load in (LOAD, LARGE):
        comparison.measure(ready, load, 1)
    assert set(missing := comparison.missing(ready, (LOAD, LARGE))) == {
        "openfl, 2 x 1 MB: its server ended",
        "openfl, 2 x 100 MB: its server ended",
        "flower, 2 x 100 MB: its server ended",
    }
    assert len(missing) == 3, "each once"


def test_a_start_that_failed_once_is_tried_again(tmp_path: Path) -> None:
    outcomes = iter([PeerFailed("busy"), Rounds("1.0", (1.0,), {})])

    def drive(site: Site, load: Load) -> Rounds:
        outcome = next(outcomes)
        if isinstance(outcome, PeerFailed):
            raise outcome
        return outcome

    comparison, ready = Comparison(tmp_path), {Peer("nvflare", "busy", None, drive): HERE}
    comparison.measure(ready, LOAD, 1)
    assert [failure.reason for failure in comparison.failures] == ["busy"]
    assert (len(comparison.runs), comparison.missing(ready, (LOAD,))) == (1, ())


def test_the_folder_of_a_failed_run_stays_and_that_of_a_good_one_does_not(tmp_path: Path) -> None:
    comparison = Comparison(tmp_path)
    comparison.measure({_peer("flower", 1): HERE, _peer("openfl"): HERE}, LOAD, 1)
    kept = [path.name for path in tmp_path.iterdir() if "-" in path.name]
    assert len(kept) == 2
    assert all(name.startswith("openfl-") for name in kept)


@pytest.mark.slow
def test_cloister_is_read_from_its_own_benchmark(tmp_path: Path) -> None:
    rounds = _fake("works")(_site(tmp_path), LARGE)
    assert (rounds.median_s, rounds.server_mb) == (0.5, 400)
    assert rounds.details == {"sealing_share": 0.08, "grpc_limit_s": 0.4}
    printed = json.loads((tmp_path / "rounds.log").read_text().splitlines()[-1])
    assert rounds.round_s == (0.75, 0.5, 0.25)
    assert printed["data"]["asked"] == ["--workers", "2", "--mb", "100", "--rounds", str(1 + LARGE.rounds), "--json"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "reason", "log"),
    [
        ("fails", "rounds ended with 1", "no worker was admitted"),
        ("garbage", "its JSON is not as expected", "garbage"),
        ("lacks", "host_peak_mb", "aggregator_peak_mb"),
        ("hangs", "out of time", "a table"),
    ],
)
def test_a_round_that_was_not_measured_says_why(tmp_path: Path, behaviour: str, reason: str, log: str) -> None:
    with pytest.raises(PeerFailed, match=reason) as failed:
        _fake(behaviour)(_site(tmp_path), replace(LOAD, timeout_s=3))
    assert log in failed.value.log


@pytest.mark.slow
def test_the_command_writes_raw_results_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = replace(PEERS["cloister"], drive=_fake("works"))
    monkeypatch.setattr("benchmarks.peers.command.PEERS", {"cloister": ours, "flower": _peer("flower", 5, 5)})
    out = tmp_path / "out"
    outcome = BENCHMARK.run(
        _options("--peers", "flower,cloister", "--repeats", "1", "--mb", "100,1", "--out", str(out))
    )
    assert outcome.failures == ()
    written = json.loads((out / "peers.json").read_text())
    assert [(item["peer"], item["mb"], item["times_cloister"]) for item in written["standings"]] == [
        ("flower", 100, 20),
        ("cloister", 100, 1),
        ("flower", 1, 20),
        ("cloister", 1, 1),
    ]
    assert len(written["runs"]) == 4
    assert "20.0x" in (out / "peers.svg").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["peers.json", "peers.svg"]


def test_what_was_measured_outlives_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(site: Site, load: Load) -> Rounds:
        raise KeyboardInterrupt

    both = {"flower": _peer("flower", 5), "openfl": Peer("openfl", "in memory", None, interrupted)}
    monkeypatch.setattr("benchmarks.peers.command.PEERS", both)
    with pytest.raises(KeyboardInterrupt):
        BENCHMARK.run(_options("--peers", "flower,openfl", "--mb", "1", "--out", str(tmp_path)))
    assert [run["peer"] for run in json.loads((tmp_path / "peers.json").read_text())["runs"]] == ["flower"]


@pytest.mark.slow
def test_a_peer_that_does_not_install_is_reported_with_the_reason_of_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    peer = replace(_peer("flower", 1), requirement=Requirement("cloister-has-no-such-peer", ("2.0",)))
    comparison = Comparison(tmp_path)
    assert comparison.install([peer], tmp_path) == {}
    (failure,) = comparison.failures
    assert (failure.peer, failure.load) == ("flower", None)
    assert comparison.missing({}, (LOAD,)) == (str(failure),)
    assert "flower 2.0: Could not find a version that satisfies the requirement" in failure.reason


@pytest.mark.slow
def test_an_environment_is_made_once_and_again_when_it_should_hold_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    here, said = Requirement("pip", (ensurepip.version(),)), list[str]()  # what a new environment holds anyway
    for requirement in (here, here, replace(here, beside=("pip>0",))):
        found = prepare(tmp_path, "peer", requirement, said.append)
    assert (found.python.exists(), found.version) == (True, ensurepip.version())
    assert len(said) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--peers", "fedml"),
        ("--peers", ""),
        ("--mb", "large"),
        ("--mb", "0"),
        ("--mb", "nan"),
        ("--mb", "1,"),
        ("--repeats", "0"),
        ("--workers", "-1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_installed(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(BenchmarkError) as refused:
        BENCHMARK.run(_options(*arguments, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")))
    assert arguments[0] in refused.value.message
    assert refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_plot_has_a_bar_for_each_standing_and_is_well_formed() -> None:
    runs = [
        Run(peer, load, 1, 0.0, Rounds("<1>", (seconds, seconds * 2), {"server": 1.0}))
        for load in (LARGE, LOAD)
        for peer, seconds in (("flower", 20.0), ("cloister", 0.5))
    ]
    found = standings(runs)
    drawn = ET.fromstring(plot(found))
    bars = drawn.findall("{http://www.w3.org/2000/svg}rect")
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert len(bars) == len(found) == 4
    assert widths[0] > widths[1] > 0


def test_a_round_lasts_from_mark_to_mark() -> None:
    assert intervals([1.0, 3.5, 4.0]) == (2.5, 0.5)
    assert intervals([1.0]) == ()


def test_the_marks_of_nvflare_stand_below_their_times() -> None:
    log = """2026-11-21 10:23:00,500 - FedAvg - INFO - [identity=example_project] -
    ---
    Round 0 started.
2026-11-21 10:23:02,000 - FedAvg - INFO - [identity=example_project] - Aggregated 2/2 results
2026-11-21 10:23:03,000 - FedAvg - INFO - Round 1 started.
2026-11-21 10:23:03,750 - FedAvg - INFO - Finished FedAvg."""
    assert intervals(_marks_of(log.splitlines())) == (2.5, 0.75)
    assert _marks_of(["Round 0 started."]) == [], "a mark without a time is none"


@pytest.mark.slow
def test_the_marks_of_openfl_are_those_of_its_running_log(tmp_path: Path) -> None:
    code = """
import sys, time
for part in ("Starting ", "round 1...\\nnothing\\n", "Starting round 2...\\n", "Experiment Completed. Cleaning up\\n"):
    print(part, end="", flush=True); time.sleep(0.3)
"""
    with Family(tmp_path) as family:
        family.start("aggregator", [sys.executable, "-c", code], cwd=tmp_path)
        marks = _marks(family, 2, float("inf"))
    assert len(marks) == 3
    assert all(0.2 < seconds < 2 for seconds in intervals(marks))


@pytest.mark.slow
def test_an_aggregator_of_openfl_that_ends_early_is_a_failure(tmp_path: Path) -> None:
    with Family(tmp_path) as family:
        family.start("aggregator", [sys.executable, "-c", "print('Starting round 1')"], cwd=tmp_path)
        with pytest.raises(PeerFailed, match="ended early") as failed:
            _marks(family, 2, float("inf"))
    assert "Starting round 1" in failed.value.log


def test_a_failure_is_told_to_programs_with_its_log() -> None:
    failure = Failure("openfl", None, "no wheel", "the end")
    assert failure.to_json() == {"peer": "openfl", "what": "installation", "reason": "no wheel", "log": "the end"}
    assert replace(failure, load=LOAD).to_json()["what"] == "2 x 1 MB"
