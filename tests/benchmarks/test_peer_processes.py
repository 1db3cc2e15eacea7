"""Whatever a peer starts is seen and ended, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.peers.load import PeerFailed
from benchmarks.peers.processes import Family

pytestmark = pytest.mark.slow

_SLEEP = "import time; time.sleep(60)"
_DETACH = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {_SLEEP!r}], start_new_session=True)
open("pid", "w").write(str(child.pid))
"""
_STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that nobody of the family started."""
    process = subprocess.Popen(_python(_SLEEP))
    yield process.pid
    process.kill()
    process.wait()


def test_a_process_that_detached_itself_is_ended_too(tmp_path: Path, stranger: int) -> None:
    with Family(tmp_path) as family:
        family.run("parent", _python(_DETACH), cwd=tmp_path, timeout_s=30)
        detached = int((tmp_path / "pid").read_text())
        assert _lives(detached)
    assert not _lives(detached)
    assert _lives(stranger)


def test_a_process_that_ignores_the_polite_signal_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.processes._GRACE_S", 0.5)
    with Family(tmp_path) as family:
        process = family.start("stubborn", _python(_STUBBORN), cwd=tmp_path)
        while "up" not in family.log("stubborn").read_text():
            time.sleep(0.05)
    assert process.poll() == -9


def test_families_do_not_end_each_other(tmp_path: Path) -> None:
    with Family(tmp_path) as one:
        process = one.start("one", _python(_SLEEP), cwd=tmp_path)
        with Family(tmp_path) as other:
            other.start("other", _python(_SLEEP), cwd=tmp_path)
        assert _lives(process.pid)


def test_a_family_within_a_family_is_ended_with_it(tmp_path: Path) -> None:
    with Family(tmp_path) as inner:
        with Family(tmp_path, {inner._mark: "1"}) as outer:
            process = outer.start("child", _python(_SLEEP), cwd=tmp_path)
            assert process.pid in [member.pid for member in inner._alive()]
        assert process.poll() is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_error_ends_all(tmp_path: Path, error: type[BaseException]) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def fail_inside() -> None:
        with Family(tmp_path) as family:
            started.append(family.start("child", _python(_SLEEP), cwd=tmp_path))
            raise error

    with pytest.raises(error):
        fail_inside()
    assert started[0].poll() is not None


def test_a_failed_command_shows_its_last_lines(tmp_path: Path) -> None:
    code = "import sys; print(*range(100), sep='\\n'); sys.exit('no such model')"
    with Family(tmp_path) as family, pytest.raises(PeerFailed, match="step ended with 1") as failed:
        family.run("step", _python(code), cwd=tmp_path, timeout_s=30)
    assert failed.value.log.endswith("no such model")
    assert "step.log" in failed.value.log
    assert "\n50\n" not in failed.value.log


def test_a_late_command_fails_and_is_ended(tmp_path: Path) -> None:
    with Family(tmp_path) as family:
        with pytest.raises(PeerFailed, match="out of time"):
            family.run(
                "late",
                _python(f"import os; open('pid', 'w').write(str(os.getpid())); {_SLEEP}"),
                cwd=tmp_path,
                timeout_s=2,
            )
        late = int((tmp_path / "pid").read_text())
    assert not _lives(late)


def test_too_little_memory_stops_the_family_rather_than_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.processes._LEAST_FREE_MB", float("inf"))
    with Family(tmp_path) as family, pytest.raises(PeerFailed, match="memory"):
        family.run("child", _python(_SLEEP), cwd=tmp_path, timeout_s=30)


def test_the_peak_of_memory_is_seen_although_it_was_given_back(tmp_path: Path) -> None:
    code = "import time; held = bytearray(200_000_000); del held; open('done', 'w'); time.sleep(60)"
    with Family(tmp_path) as family:
        family.start("large", _python(code), cwd=tmp_path)
        family.start("small", _python(_SLEEP), cwd=tmp_path)
        while not (tmp_path / "done").exists():
            time.sleep(0.05)
        assert 200 < family.peak_mb("bytearray", "sleep") < 260
        assert 200 < family.peak_mb("sleep") < 300
        with pytest.raises(PeerFailed, match="no process was called no-such-server"):
            family.peak_mb("no-such-server")


def test_the_environment_reaches_grandchildren_with_their_mark(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import os; print(os.environ[\"GIVEN\"])'])"
    with Family(tmp_path, {"GIVEN": "to all"}) as family:
        family.run("parent", _python(code), cwd=tmp_path, timeout_s=30)
        assert family.log("parent").read_text() == "to all\n"
    assert "GIVEN" not in os.environ
