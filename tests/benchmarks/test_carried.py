"""A peer that lost a worker or did not average is not measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.peers.carried import require_aggregates
from benchmarks.peers.load import Load, PeerFailed

LOAD = Load(workers=3, megabytes=1, rounds=2, timeout_s=1)
ROUNDS = 3


def _line(worker: int, number: int) -> dict[str, object]:
    """What arrives when every worker adds its number and the mean of 1, 2 and 3 is 2."""
    return {"worker": worker, "round": number, "ends": [0.25 + 2 * number, 0.75 + 2 * number]}


@pytest.fixture
def lines() -> dict[int, list[dict[str, object]]]:
    return {worker: [_line(worker, number) for number in range(ROUNDS)] for worker in (1, 2, 3)}


def _write(folder: Path, lines: dict[int, list[dict[str, object]]]) -> None:
    for worker, items in lines.items():
        (folder / f"worker-{worker}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def test_means_of_all_workers_pass(tmp_path: Path, lines: dict[int, list[dict[str, object]]]) -> None:
    _write(tmp_path, lines)
    require_aggregates(tmp_path, LOAD, ROUNDS)


def test_a_worker_that_took_no_part_is_noticed(tmp_path: Path, lines: dict[int, list[dict[str, object]]]) -> None:
    _write(tmp_path, lines | {2: []})
    with pytest.raises(PeerFailed, match="3 of 9 models"):
        require_aggregates(tmp_path, LOAD, ROUNDS)


def test_a_worker_that_missed_a_round_is_noticed(tmp_path: Path, lines: dict[int, list[dict[str, object]]]) -> None:
    del lines[3][1]
    _write(tmp_path, lines)
    with pytest.raises(PeerFailed, match="1 of 9 models"):
        require_aggregates(tmp_path, LOAD, ROUNDS)


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("number", [1, 2])
def test_another_mean_is_noticed(
    tmp_path: Path, lines: dict[int, list[dict[str, object]]], end: int, number: int
) -> None:
    ends = lines[2][number]["ends"]
    assert isinstance(ends, list)
    ends[end] += 0.5
    _write(tmp_path, lines)
    with pytest.raises(PeerFailed, match=f"round {number}: what worker 2 received"):
        require_aggregates(tmp_path, LOAD, ROUNDS)


def test_nothing_received_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match="9 of 9 models"):
        require_aggregates(tmp_path, LOAD, ROUNDS)
