"""A worker's trainer process around a small app, and what tests ask of processes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.worker.flower_apps import LAYOUT, WELL_BEHAVED, unpacked
from trusted.errors import AppError
from trusted.hpke import SealingKey
from worker.app_log import End, Reader, open_log
from worker.trainer_process import TrainerProcess, TrainerSpec

MODEL = np.arange(LAYOUT.elements, dtype=np.float32)
KEY = SealingKey.generate()
READER = Reader("hospital-a", bytes(32), KEY.public)


@contextlib.contextmanager
def trainer(tmp_path: Path, body: str = WELL_BEHAVED, **config: bool | int | float | str) -> Iterator[TrainerProcess]:
    spec = spec_of(tmp_path, body, **config)
    process = TrainerProcess.start(spec, timeout_s=60)
    try:
        yield process
    finally:
        process.stop()


def spec_of(tmp_path: Path, body: str = WELL_BEHAVED, **config: bool | int | float | str) -> TrainerSpec:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "site.csv").write_text("a,b\n1,2\n")
    return TrainerSpec(
        app_dir=unpacked(tmp_path, train=body),
        data=tmp_path / "data",
        layout=LAYOUT,
        config=config,
        log_file=tmp_path / "app.log",
        scratch=tmp_path / "scratch",
        log_reader=READER,
    )


def words_in(log: Path, *, end: End = End.WHOLE) -> str:
    """What the member reads in ``log``; call it once the trainer has been stopped."""
    with log.open("rb") as file:
        (start,) = open_log(file, KEY)
    assert start.end is end
    return start.words.decode()


def refused(process: TrainerProcess, *, timeout_s: float = 30) -> AppError:
    with pytest.raises(AppError) as error:
        process.train(MODEL, 1, timeout_s)
    return error.value


def until(holds: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_settled(process: TrainerProcess) -> bool:
    """Whether its processor time stands still for a second."""
    before = process.beat()
    time.sleep(1.0)
    return process.beat() == before


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def ended(pid: int) -> bool:
    """Gone, or dead and not yet collected by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
