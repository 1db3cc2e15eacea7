"""What is saved reads back as it was; what is something else is told in one sentence."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from console.output import UserError
from simulations.result import Result, RoundRow
from tests.simulations.results import result

SUFFIXES = (".json", ".parquet")


def same(one: RoundRow, other: RoundRow) -> bool:
    """Equal, where NaN equals NaN."""
    maps = ("evaluated", "reported", "wall_s")
    for name in maps:
        left, right = getattr(one, name), getattr(other, name)
        if left.keys() != right.keys():
            return False
        if not all(np.array_equal(left[key], right[key], equal_nan=True) for key in left):
            return False
    cleared: dict[str, dict[str, float]] = {name: {} for name in maps}
    return replace(one, **cleared) == replace(other, **cleared)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_result_reads_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    before = result()
    after = Result.read(before.save(tmp_path / f"run{suffix}"))
    assert (after.settings, after.ending, after.layout) == (before.settings, before.ending, before.layout)
    assert all(same(one, other) for one, other in zip(before.rounds, after.rounds, strict=True))
    assert after.model.tobytes() == before.model.tobytes()


def test_both_forms_hold_the_same(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        result().save(tmp_path / f"run{suffix}")
    one, other = (Result.read(tmp_path / f"run{suffix}") for suffix in SUFFIXES)
    assert all(same(left, right) for left, right in zip(one.rounds, other.rounds, strict=True))


def test_parquet_has_a_column_for_each_metric(tmp_path: Path) -> None:
    table = pq.read_table(result().save(tmp_path / "run.parquet"))
    assert table.column("evaluated.accuracy").to_pylist()[3:] == [None, 0.9]
    assert math.isnan(table.column("evaluated.loss").to_pylist()[-1])
    assert table.column("wall_s.train").to_pylist()[0] == 0.2


def test_json_is_strict(tmp_path: Path) -> None:
    text = result().save(tmp_path / "run.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_something_else_is_said_to_be(tmp_path: Path, suffix: str) -> None:
    path = result().save(tmp_path / f"run{suffix}")
    whole = path.read_bytes()
    for wrong in (b"", b"{}", b"PAR1", whole[:-10]):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match="no result of a simulation"):
            Result.read(path)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = result().save(tmp_path / "run.json")
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(UserError, match="no result of a simulation"):
        Result.read(path)


def test_a_model_that_is_missing_or_of_another_simulation_is_refused(tmp_path: Path) -> None:
    path = result().save(tmp_path / "run.json")
    model = tmp_path / "run.safetensors"
    kept = model.read_bytes()
    model.unlink()
    with pytest.raises(UserError, match="is not beside"):
        Result.read(path)
    model.write_bytes(kept.replace(b"a.bias", b"b.bias"))
    with pytest.raises(UserError, match="of another simulation"):
        Result.read(path)


@pytest.mark.parametrize("name", ["run", "run.pkl", "run.csv"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"\.parquet or \.json"):
        result().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_files_are_moved_together(tmp_path: Path) -> None:
    result().save(tmp_path / "run.parquet")
    shutil.copytree(tmp_path, tmp_path.parent / "elsewhere")
    assert Result.read(tmp_path.parent / "elsewhere" / "run.parquet").final["accuracy"] == 0.9
