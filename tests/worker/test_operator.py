"""A site's own word to its worker: it can only make it do less, whoever writes it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from trusted.errors import Reason
from worker.operator import Departed, Operator, Wish, read_wish, write_wish
from worker.pulse import Pulse


@pytest.mark.parametrize("wish", [Wish.TAKE_PART, Wish.PAUSE, Wish.WITHDRAW])
def test_a_wish_stands_until_another_one_takes_its_place(tmp_path: Path, wish: Wish) -> None:
    write_wish(tmp_path, Wish.WITHDRAW)
    write_wish(tmp_path, wish)
    assert read_wish(tmp_path) is wish
    assert Operator(tmp_path).wish() is wish
    assert [path.name for path in tmp_path.iterdir()] == ["wish"]
    assert (tmp_path / "wish").stat().st_mode & 0o777 == 0o644


def test_no_file_and_no_folder_are_no_wish(tmp_path: Path) -> None:
    assert read_wish(tmp_path) is read_wish(tmp_path / "none") is Operator().wish() is Wish.TAKE_PART


@pytest.mark.parametrize("text", [b"", b"leave", b"take", b"take-part and more", b"\xff" * 1000, b"withdraw" * 9])
def test_what_is_no_wish_is_a_pause(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "wish").write_bytes(text)
    assert read_wish(tmp_path) is Wish.PAUSE


def test_what_is_no_file_is_a_pause_and_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "wish")
    assert read_wish(tmp_path) is Wish.PAUSE
    (tmp_path / "wish").unlink()
    (tmp_path / "elsewhere").write_text("take-part")
    (tmp_path / "wish").symlink_to(tmp_path / "elsewhere")
    assert read_wish(tmp_path) is Wish.PAUSE
    (tmp_path / "wish").unlink()
    (tmp_path / "wish").mkdir()
    assert read_wish(tmp_path) is Wish.PAUSE


def test_leaving_is_no_wish_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take-part"):
        write_wish(tmp_path, Wish.LEAVE)


def test_sigterm_outdoes_the_file(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    operator.leave()
    assert operator.wish() is Wish.LEAVE
    assert operator.sleep(60) == Departed(Wish.LEAVE)


def test_a_withdrawal_ends_a_wait_and_a_pause_does_not(tmp_path: Path) -> None:
    operator, begun = Operator(tmp_path), time.monotonic()
    write_wish(tmp_path, Wish.PAUSE)
    assert operator.sleep(0.3) is None
    assert time.monotonic() - begun >= 0.3
    write_wish(tmp_path, Wish.WITHDRAW)
    assert operator.sleep(60) == Departed(Wish.WITHDRAW)


def test_each_wish_has_the_reason_that_the_aggregator_is_told() -> None:
    reasons = {wish: wish.reason for wish in Wish}
    assert reasons == {
        Wish.TAKE_PART: None,
        Wish.PAUSE: Reason.SITE_PAUSED,
        Wish.WITHDRAW: Reason.SITE_WITHDRAWS,
        Wish.LEAVE: Reason.SITE_LEAVES,
    }


def test_a_pulse_tells_stages_and_quarters_at_once_and_the_rest_now_and_then() -> None:
    used = [0]
    pulse = Pulse(3, lambda: used[0])
    first = pulse.news(coarse=True)
    assert first == {"type": "progress", "round": 3, "stage": "download", "percent": 0, "beat": 0}
    pulse.report("download", 24)
    assert pulse.news(coarse=True) is None
    assert (pulse.news(coarse=False) or {})["percent"] == 24
    pulse.report("download", 25)
    assert (pulse.news(coarse=True) or {})["percent"] == 25


def test_a_trainer_that_uses_no_processor_has_no_pulse() -> None:
    used = [0]
    pulse = Pulse(1, lambda: used[0])
    pulse.report("train", 0)
    assert pulse.news(coarse=False) is not None
    assert pulse.news(coarse=False) is None
    used[0] += 1
    assert (pulse.news(coarse=False) or {})["beat"] == 2
    assert pulse.news(coarse=False) is None
