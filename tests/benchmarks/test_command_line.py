"""``python -m benchmarks``: one object for programs, a table for people, and nothing missing in silence."""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Callable

import pytest

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.command import Benchmark, BenchmarkError, Outcome, table


def _named(name: str, run: Callable[[argparse.Namespace], Outcome]) -> Benchmark:
    return Benchmark(name, f"what {name} is", lambda parser: None, run)


def _refuse(options: argparse.Namespace) -> Outcome:
    raise BenchmarkError("nothing to measure", "Bring something.")


def _break(options: argparse.Namespace) -> Outcome:
    raise LookupError("secret")


GOOD = _named("good", lambda _: Outcome({"figure": 1}, "a table"))
PARTLY = _named("partly", lambda _: Outcome({"figure": 1}, "a table", ("the other one: it broke",)))
REFUSED, BROKEN = _named("refused", _refuse), _named("broken", _break)
ALL = (GOOD, PARTLY, REFUSED, BROKEN)


def test_help_lists_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert {"attestation", "limits", "peers"} <= {benchmark.name for benchmark in BENCHMARKS}
    assert all(f"    {benchmark.name}" in printed for benchmark in BENCHMARKS)


@pytest.mark.parametrize("arguments", [[], ["astrology"], ["good", "--astrology"]])
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments, ALL)
    assert left.value.code == 2


def test_without_json_stdout_is_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["good"], ALL) == 0
    assert capsys.readouterr().out == "a table\n"


def test_with_json_stdout_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["good", "--json"], ALL) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"schema_version": "1", "status": "ok", "data": {"figure": 1}, "error": None}
    assert printed.err == "a table\n"


def test_what_was_not_measured_is_an_error_beside_what_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["partly", "--json"], ALL) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["data"]) == ("error", {"figure": 1})
    assert found["error"]["message"] == "the other one: it broke"


@pytest.mark.parametrize(("name", "message"), [("refused", "nothing to measure"), ("broken", "unforeseen LookupError")])
def test_an_error_is_one_object_too(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--json"], ALL) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["data"], found["error"]["message"]) == ("error", {}, message)
    assert found["error"]["hint"]


def test_an_end_from_outside_unwinds() -> None:
    unwound: list[str] = []

    def interrupted(options: argparse.Namespace) -> Outcome:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            unwound.append("yes")
        return Outcome({}, "")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        main(["interrupted"], (_named("interrupted", interrupted),))
    assert signal.getsignal(signal.SIGTERM) is before
    assert (left.value.code, unwound) == (128 + signal.SIGTERM, ["yes"])


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table([("what", "n"), ("a long one", "1")]) == "what        n\na long one  1"
