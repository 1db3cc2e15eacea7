"""An app that wants its data out, or its limits broken: what the parent gets is numbers under names, and a reason."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.worker.flower_apps import LAYOUT
from tests.worker.trainer_processes import KEY, MODEL, READER, ended, refused, spec_of, words_in
from trusted.errors import AppError, Reason
from worker.app_log import BLOCK_BYTES, End, open_log
from worker.log_process import LogProcess
from worker.trainer_process import TrainerProcess


@contextlib.contextmanager
def started(tmp_path: Path, body: str, *, memory_mib: int = 0) -> Iterator[TrainerProcess]:
    process = TrainerProcess.start(replace(spec_of(tmp_path, body), memory_bytes=memory_mib << 20), timeout_s=120)
    try:
        yield process
    finally:
        process.stop()


# Tries everything once, and answers with a number for each attempt: 1 where it was refused.
TALKER = """\
import ctypes, logging, os, pathlib, signal, socket, sys, syslog, warnings
secret = "Ada-Lovelace-1815"
def fails(act):
    try:
        act()
    except OSError:
        return 1.0
    return 0.0
print(secret, flush=True)
print(secret, file=sys.stderr, flush=True)
os.write(1, secret.encode())
os.write(2, secret.encode())
warnings.warn(secret)
logging.getLogger("flwr").error(secret)
with open("/proc/self/fd/1", "w") if os.access("/proc/self/fd/1", os.W_OK) else sys.stdout as out:
    out.write(secret)
sys.stdout = sys.__stdout__
os.environ["SECRET"] = secret
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(15, secret[:15].encode(), 0, 0, 0)
def denied(*call):
    return float(libc.syscall(*call) == -1 and ctypes.get_errno() == 1)
metrics = {
    "num-examples": 1,
    "outside": fails(lambda: pathlib.Path("../leak.txt").write_text(secret)),
    "tmp": fails(lambda: pathlib.Path("/tmp", secret).write_text(secret)),
    "shm": fails(lambda: pathlib.Path("/dev/shm", secret).write_text(secret)),
    "tty": fails(lambda: pathlib.Path("/dev/tty").write_text(secret)),
    "parent-fd": fails(lambda: pathlib.Path(f"/proc/{os.getppid()}/fd/1").write_text(secret)),
    "parent-memory": fails(lambda: open(f"/proc/{os.getppid()}/mem", "rb")),
    "signal": fails(lambda: os.kill(os.getppid(), 0)),
    "inet": fails(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "inet6": fails(lambda: socket.socket(socket.AF_INET6)),
    "vsock": fails(lambda: socket.socket(socket.AF_VSOCK)),
    "netlink": fails(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "unix": fails(lambda: socket.socket(socket.AF_UNIX).connect("/run/listener")),
    "abstract": fails(lambda: socket.socket(socket.AF_UNIX).connect("\\0cloister-test-listener")),
    "exec": fails(lambda: os.execv("/bin/true", ["true", secret])),
    "new-session": fails(os.setsid),
    "new-group": fails(lambda: os.setpgid(0, 0)),
    "listed": float(any(secret in name for name in os.listdir("/proc/self/fd"))),
}
metrics[secret] = 1.0
arrays["w"][0, 0] = np.float32(3)
return answered(message, arrays, metrics)
"""


def test_nothing_that_an_app_says_reaches_its_parent_but_numbers_under_names(tmp_path: Path, capfd) -> None:
    with started(tmp_path, TALKER) as process, socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0cloister-test-listener")
        listener.listen()
        result = process.train(MODEL, 1, 120)
        scope = "landlock-scope" in {feature.value for feature in process.features}
        files = "landlock-files" in {feature.value for feature in process.features}
    metrics = dict(result.metrics)
    assert metrics.pop("Ada-Lovelace-1815") == 1.0  # a name of its own: the plan's list stops it (test_contribution)
    assert metrics.pop("listed") == 0.0
    always = {"inet", "inet6", "vsock", "netlink", "exec", "new-session", "new-group", "unix"}
    assert {name for name in always if metrics[name] != 1.0} == set()
    if files:
        places = {"outside", "tmp", "shm", "tty", "parent-fd", "parent-memory"}
        assert {name for name in places if metrics[name] != 1.0} == set()
    if scope:
        assert (metrics["signal"], metrics["abstract"]) == (1.0, 1.0)
    assert result.delta.shape == (LAYOUT.elements,)
    assert "Ada" not in "".join(capfd.readouterr())
    assert b"Ada-Lovelace-1815" not in (tmp_path / "app.log").read_bytes()
    assert words_in(tmp_path / "app.log").count("Ada-Lovelace-1815") >= 5
    assert not (tmp_path / "leak.txt").exists()


MEMORY = """\
if message.content["config"]["server-round"] == 2:
    return answered(message, arrays, {"num-examples": 1})
kept = [np.ones(1 << 20) for _ in range(1 << 12)]
return answered(message, arrays, {"num-examples": 1})
"""


def test_an_app_that_asks_for_more_memory_than_it_is_given_gets_a_reason_and_may_go_on(tmp_path: Path) -> None:
    with started(tmp_path, MEMORY, memory_mib=1024) as process:
        error = refused(process, timeout_s=120)
        assert (error.reason, "memory" in error.detail) == (Reason.APP_MEMORY, True)
        assert process.train(MODEL, 2, 120).num_examples == 1
    assert "MemoryError" in words_in(tmp_path / "app.log")


DAEMON = """\
import os, time
def fails(act):
    try:
        act()
    except OSError:
        return 1.0
    return 0.0
read, write = os.pipe()
if os.fork() == 0:
    refused = int(fails(os.setsid))
    if os.fork() == 0:
        os.write(write, (os.getpid() * 2 + refused).to_bytes(8, "big"))
        time.sleep(600)
    os._exit(0)
told = int.from_bytes(os.read(read, 8), "big")
if message.content["config"]["server-round"] == 2:
    os._exit(0)
return answered(message, arrays, {"num-examples": 1, "daemon": told // 2, "no-session": told % 2})
"""


def test_a_daemon_that_an_app_leaves_ends_with_it(tmp_path: Path) -> None:
    with started(tmp_path, DAEMON) as process:
        metrics = process.train(MODEL, 1, 120).metrics
        daemon = int(metrics["daemon"])
        assert metrics["no-session"] == 1
        assert not ended(daemon)
        process.stop()
        assert not still_there(daemon)


def still_there(pid: int, *, within_s: float = 5) -> bool:
    deadline = time.monotonic() + within_s
    while not ended(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not ended(pid)


NOISE = """\
import os
for _ in range(40_000):
    os.write(1, b"x" * 4096)
os.write(1, b"the end")
return answered(message, arrays, {"num-examples": 1})
"""


def test_an_app_that_prints_without_end_holds_nobody_up_and_fills_no_disk(tmp_path: Path) -> None:
    with started(tmp_path, NOISE) as process:
        assert process.train(MODEL, 1, 120).num_examples == 1
    assert (tmp_path / "app.log").stat().st_size <= 65 << 20
    words = words_in(tmp_path / "app.log")
    assert words.endswith("was dropped: a log holds 64 MiB]\n")
    assert "the end" not in words


PAYLOAD = """\
arrays["w"] = np.frombuffer(b"Ada-Lovelace-1815-12-10 !", dtype=np.uint8)[:24].view(np.uint32)
arrays["w"] = (arrays["w"].reshape(2, 3) & np.uint32(0x007FFFFF) | np.uint32(0x7FC00000)).view(np.float32)
return answered(message, arrays, {"num-examples": 1})
"""


def test_bytes_in_the_payload_of_a_nan_go_nowhere(tmp_path: Path) -> None:
    with started(tmp_path, PAYLOAD) as process:
        assert refused(process, timeout_s=120).reason is Reason.APP_REPLY


def test_an_app_that_dies_leaves_its_last_words_to_the_member(tmp_path: Path) -> None:
    body = "import os, signal\nprint('last words of Ada', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    with started(tmp_path, body) as process:
        assert refused(process, timeout_s=120).reason is Reason.APP_FAILED
    assert b"last words" not in (tmp_path / "app.log").read_bytes()
    assert "last words of Ada" in words_in(tmp_path / "app.log")


def test_words_stand_sealed_on_the_disk_while_the_app_still_runs_and_a_second_start_follows(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    for number, end in ((0, End.CUT), (1, End.WHOLE)):
        log = LogProcess.start(path, READER)
        os.write(log.descriptor, b"said by Ada")
        deadline = time.monotonic() + 30
        while path.stat().st_size < (2 + 2 * number) * BLOCK_BYTES and time.monotonic() < deadline:
            time.sleep(0.05)
        assert b"said by Ada" not in path.read_bytes()
        if number == 0:
            os.kill(log.pid, 9)  # as the machine may at any time
            assert words_in(path, end=end) == "said by Ada"
            os.truncate(path, path.stat().st_size - 100)  # a block that was torn
        os.close(log.descriptor)
        log.wait()
    with path.open("rb") as file:
        found = [(start.words, start.end) for start in open_log(file, KEY)]
    assert found == [(b"", End.ALTERED), (b"said by Ada", End.WHOLE)]


def test_without_a_reader_nobody_hears_the_app(tmp_path: Path) -> None:
    log = LogProcess.start(tmp_path / "app.log", None)
    os.write(log.descriptor, b"Ada")
    os.close(log.descriptor)
    log.wait()
    assert not (tmp_path / "app.log").exists()


def test_a_full_disk_under_the_log_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError):  # a link is not followed
        LogProcess.start(tmp_path / "full", READER)
    log = LogProcess.start(Path("/dev/full"), READER)
    for _ in range(64):
        os.write(log.descriptor, bytes(1 << 16))
    os.close(log.descriptor)
    log.wait()
    assert log.pid == 0


def test_an_endless_loop_is_cut_off_with_a_reason(tmp_path: Path) -> None:
    with started(tmp_path, "while True: pass") as process:
        with pytest.raises(AppError) as error:
            process.train(MODEL, 1, 0.5)
        assert error.value.reason is Reason.APP_TIMEOUT
        assert ended(process.pid)
    assert threading.active_count() == 1
    assert np.isfinite(MODEL).all()
