"""What an app's process may reach, and when it ends: with its trainer, with its parent, and all that it forked."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.worker.trainer_processes import MODEL, ended, gone, spec_of, trainer
from trusted.confinement import landlock_abi
from worker.trainer_process import TrainerProcess

pytestmark = pytest.mark.usefixtures("alone")


def test_the_app_has_no_environment_descriptor_network_or_program_of_the_worker(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CLOISTER_CANARY", "secret")
    leak = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leak, True)
    body = """\
import os, socket, subprocess
def fails(act):
    try:
        act()
    except OSError:
        return 1
    return 0
metrics = {
    "num-examples": 1,
    "environment": len([name for name in os.environ if "CANARY" in name]),
    "descriptors": len([fd for fd in range(3, 1024) if not fails(lambda: os.fstat(fd))]),
    "no-network": fails(lambda: socket.socket(socket.AF_INET)),
    "no-program": fails(lambda: subprocess.run(["/bin/true"])),
    "core": __import__("resource").getrlimit(4)[0],
}
return answered(message, arrays, metrics)
"""
    with trainer(tmp_path, body) as process:
        metrics = dict(process.train(MODEL, 1, 30).metrics)
    os.close(leak)
    assert metrics.pop("descriptors") <= 2  # the channel, and one that is open while they are counted
    assert metrics == {"environment": 0, "no-network": 1, "no-program": 1, "core": 0}


@pytest.mark.skipif(landlock_abi() == 0, reason="this kernel has no Landlock")
def test_the_app_reads_its_data_and_no_other_file_and_writes_to_its_scratch_alone(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("another member's")
    (tmp_path / "state").mkdir()  # where the worker remembers across its restarts
    (tmp_path / "state" / "witness.sealed").write_bytes(b"sealed")
    body = f"""\
import os, pathlib
def fails(act):
    try:
        act()
    except OSError:
        return 1
    return 0
data = pathlib.Path(context.node_config["data-path"])
metrics = {{
    "num-examples": 1,
    "data": fails(lambda: (data / "site.csv").read_text()),
    "scratch": fails(lambda: pathlib.Path("mine.txt").write_text("x")),
    "other": fails(lambda: pathlib.Path({str(tmp_path / "other.txt")!r}).read_text()),
    "app": fails(lambda: pathlib.Path(__file__).with_name("new.py").write_text("x")),
    "write-data": fails(lambda: (data / "new.csv").write_text("x")),
    "state": fails(lambda: os.listdir({str(tmp_path / "state")!r})),
    "record": fails(lambda: pathlib.Path({str(tmp_path / "state" / "witness.sealed")!r}).read_bytes()),
    "write-state": fails(lambda: pathlib.Path({str(tmp_path / "state" / "new")!r}).write_text("x")),
    "remove-record": fails(lambda: os.unlink({str(tmp_path / "state" / "witness.sealed")!r})),
    "passwd": fails(lambda: pathlib.Path("/etc/passwd").read_text()),
    "parent": fails(lambda: pathlib.Path(f"/proc/{{os.getppid()}}/environ").read_bytes()),
}}
return answered(message, arrays, metrics)
"""
    with trainer(tmp_path, body) as process:
        metrics = process.train(MODEL, 1, 30).metrics
    assert metrics.pop("data") == metrics.pop("scratch") == 0
    assert len(metrics) == 9
    assert set(metrics.values()) == {1}


def test_stop_ends_the_child_and_may_be_called_twice(tmp_path: Path) -> None:
    with trainer(tmp_path) as process:
        process.stop()
        assert gone(process.pid)
        process.stop()


def test_processes_that_the_app_forked_end_with_it(tmp_path: Path) -> None:
    body = """\
import os, time
child = os.fork()
if child == 0:
    time.sleep(600)
return answered(message, arrays, {"num-examples": 1, "child": child})
"""
    with trainer(tmp_path, body) as process:
        child = int(process.train(MODEL, 1, 30).metrics["child"])
        assert not gone(child)
        process.stop()
        deadline = time.monotonic() + 5
        while not ended(child) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ended(child)


def test_the_child_ends_when_its_parent_does(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    ours, theirs = socket.socketpair()
    parent = os.fork()
    if parent == 0:
        process = TrainerProcess.start(spec, timeout_s=60)
        theirs.sendall(process.pid.to_bytes(4, "big"))
        signal.pause()
        os._exit(0)
    child = int.from_bytes(ours.recv(4), "big")
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 10
    while not ended(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    ours.close()
    theirs.close()
    assert ended(child)


def test_starting_after_threads_is_the_callers_error(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="threads"):
            TrainerProcess.start(spec)
    finally:
        leave.set()
        thread.join()
