"""The child that runs an app's own server: what it can reach, and what becomes of one that hangs, dies or lies."""

from __future__ import annotations

import os
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.enclave.server_app.asks import (
    Answer,
    Ask,
    Begin,
    Collect,
    Collected,
    Failed,
    Finished,
    Here,
    Nodes,
    Offer,
    Offered,
    Pull,
    Reply,
    Send,
    Sent,
)
from coordinator.enclave.server_process import ServerAppProcess, ServerAppSpec
from tests.worker.flower_apps import LAYOUT, write_app
from trusted.apps.bundle import build_bundle, bundle_digest, unpack_bundle
from trusted.apps.messages import AppMessage, RecordKind
from trusted.confinement import landlock_abi
from trusted.errors import AppError, Reason

MODEL = np.arange(LAYOUT.elements, dtype=np.float32)
SIZE = 1 << 18
FED_AVG = """\
from flwr.serverapp.strategy import FedAvg
own = ArrayRecord({"w": Array(np.zeros((2, 3), "f4")), "scale": Array(np.zeros((), "f4")),
                   "steps": Array(np.zeros(2, "i8"))})
rounds = context.run_config["rounds"]
FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=own, num_rounds=rounds)
"""
SERVER = """\
import os
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


def leave(context, *numbers):
    values = np.zeros(9, "f4")
    values[: len(numbers)] = numbers
    context.state["arrays"] = ArrayRecord({{
        "w": Array(values[:6].reshape(2, 3)), "scale": Array(np.array(values[6])), "steps": Array(values[7:] * 1.0),
    }})


def refused(act):
    try:
        act()
    except OSError:
        return 1.0
    return 0.0


@app.main()
def main(grid, context):
{body}
"""


@pytest.fixture(autouse=True)
def alone() -> None:
    """An aggregator forks before it has threads; what is left of other tests ends by itself."""
    deadline = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == 1, threading.enumerate()


def spec_of(tmp_path: Path, body: str, *, turn_s: float = 60.0, memory_bytes: int = 0, **config: Any) -> ServerAppSpec:
    source = write_app(tmp_path / "source")
    (server,) = source.glob("*/server_app.py")
    server.write_text(SERVER.format(body=textwrap.indent(body, "    ")))
    data = build_bundle(source)
    app_dir = unpack_bundle(data, expected=bundle_digest(data), into=tmp_path / "app")
    (tmp_path / "scratch").mkdir()
    return ServerAppSpec(app_dir, tmp_path / "scratch", LAYOUT, config, 3, SIZE, turn_s, memory_bytes=memory_bytes)


@contextmanager
def child(tmp_path: Path, body: str, **more: Any) -> Iterator[ServerAppProcess]:
    process = ServerAppProcess.fork(spec_of(tmp_path, body, **more))
    try:
        yield process
    finally:
        process.stop()


def trained(message: AppMessage, step: float) -> AppMessage:
    from trusted.apps.messages import AppRecord

    (arrays,) = [record for record in message.records if record.kind is RecordKind.ARRAYS]
    moved = {name: (value + step).astype(value.dtype) for name, value in arrays.values.items()}
    records = (AppRecord("arrays", RecordKind.ARRAYS, moved),)
    return AppMessage("train", "1", (*records, AppRecord("metrics", RecordKind.METRICS, {"num-examples": 4})))


def served(process: ServerAppProcess, nodes: tuple[int, ...] = (71, 72)) -> Ask:
    """Answer whatever it asks, as two sites that move each number by 1 and 3 would."""
    answer: Answer = Begin(MODEL)
    offered: list[bytes] = []
    exchange, replies = 0, {}
    while True:
        match process.turn(answer):
            case Nodes():
                answer = Here(nodes)
            case Offer(content):
                offered.append(content)
                answer = Offered(len(offered) - 1)
            case Send(to, _):
                exchange += 1
                steps = dict(zip(nodes, (1, 3), strict=True))
                replies = {node: trained(AppMessage.parse(offered[place]), steps[node]) for node, place in to}
                answer = Sent(exchange)
            case Collect():
                answer = Collected(tuple(replies), ())
                offered.clear()
            case Pull(_, node):
                answer = Reply(replies[node].encode(SIZE))
            case last:
                return last


def finished(ask: Ask) -> np.ndarray:
    assert isinstance(ask, Finished), ask
    return ask.model


def test_a_strategy_runs_in_the_child_from_the_plans_model(tmp_path: Path) -> None:
    with child(tmp_path, FED_AVG, rounds=2) as process:
        assert process.component.endswith("server_app:app")
        assert process.flower.startswith("1.4")
        np.testing.assert_allclose(finished(served(process)), MODEL + 4)


def test_the_child_has_no_network_no_files_no_programs_and_no_descriptors(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    body = f"""\
leave(
    context,
    refused(lambda: socket.create_connection(("127.0.0.1", 9), timeout=1)),
    refused(lambda: Path({str(secret)!r}).read_text()),
    refused(lambda: Path("/tmp/written").write_text("x")),
    refused(lambda: subprocess.run(["/bin/true"], check=True)),
    float(len(os.environ)),
    refused(lambda: Path("mine").write_text("x")),
)
"""
    with child(tmp_path, body) as process:
        found = finished(served(process))
    expected = [1, 1 if landlock_abi() else 0, 1 if landlock_abi() else 0, 1]
    np.testing.assert_array_equal(found[:4], expected)
    assert found[5] == 0, "its scratch folder is its own"
    assert not Path("/tmp/written").exists() or not landlock_abi()


def test_what_it_prints_goes_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    body = 'print("a single answer")\nsys.stderr.write("and its sender")\nos.write(1, b"raw")\nleave(context)\n'
    with child(tmp_path, body) as process:
        finished(served(process))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('words')", Reason.SERVER_APP_FAILED),
        ("sys.exit(3)", Reason.SERVER_APP_FAILED),
        ("os._exit(0)", Reason.SERVER_APP_FAILED),
        ("os.kill(os.getpid(), 9)", Reason.SERVER_APP_FAILED),
        ("pass", Reason.SERVER_APP_MODEL),
        ("leave(context, float('nan'))", Reason.SERVER_APP_MODEL),
        ("np.ones(1 << 40, 'f8')", Reason.APP_MEMORY),
        ("import socket as s; s.socket(fileno=3).sendall(b'garbage of the right size for a frame')",
         Reason.SERVER_APP_FAILED),
    ],
)  # fmt: skip
def test_a_server_that_ends_otherwise_has_a_reason_and_no_words(tmp_path: Path, body: str, reason: Reason) -> None:
    with child(tmp_path, body + "\n") as process:
        assert served(process) == Failed(reason)


def test_a_server_that_hangs_uses_up_its_turn_and_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.enclave.server_process.START_TIMEOUT_S", 20.0)
    with child(tmp_path, "list(grid.get_node_ids())\ntime.sleep(600)\n", turn_s=1.0) as process:
        assert isinstance(process.turn(Begin(MODEL)), Nodes)
        process._left_s = 1.0
        assert process.turn(Here((2, 3))) == Failed(Reason.SERVER_APP_TURN)
        assert process.turn(Here((2, 3))) == Failed(Reason.SERVER_APP_FAILED)


def test_asking_who_is_there_makes_no_turn_longer(tmp_path: Path) -> None:
    body = "while True:\n    list(grid.get_node_ids())\n    time.sleep(0.2)\n"
    with child(tmp_path, body) as process:
        assert isinstance(process.turn(Begin(MODEL)), Nodes)
        process._left_s, asked = 1.0, 0
        while isinstance(last := process.turn(Here((2, 3))), Nodes):
            asked += 1
        assert last == Failed(Reason.SERVER_APP_TURN)
        assert 2 <= asked <= 6


def test_what_it_forked_ends_with_it(tmp_path: Path) -> None:
    body = """\
pid = os.fork()
if pid == 0:
    time.sleep(600)
leave(context, float(pid))
"""
    with child(tmp_path, body) as process:
        pid = int(finished(served(process))[0])
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("it lives on")


def test_stopping_wakes_whoever_waits_and_may_be_done_twice(tmp_path: Path) -> None:
    with child(tmp_path, "time.sleep(600)\n") as process:
        found: list[Ask] = []
        waiting = threading.Thread(target=lambda: found.append(process.turn(Begin(MODEL))))
        waiting.start()
        time.sleep(0.3)
        process.stop()
        waiting.join(5)
        process.stop()
        assert found == [Failed(Reason.SERVER_APP_FAILED)]
        with pytest.raises(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def test_a_bundle_without_a_server_or_another_bundle_is_refused_before_the_fork(tmp_path: Path) -> None:
    source = write_app(tmp_path / "source")
    text = (source / "pyproject.toml").read_text()
    (source / "pyproject.toml").write_text("\n".join(line for line in text.splitlines() if "serverapp" not in line))
    data = build_bundle(source)
    app_dir = unpack_bundle(data, expected=bundle_digest(data), into=tmp_path / "app")
    (tmp_path / "scratch").mkdir()
    with pytest.raises(AppError) as caught:
        ServerAppProcess.fork(ServerAppSpec(app_dir, tmp_path / "scratch", LAYOUT, {}, 1, SIZE, 5.0))
    assert caught.value.reason is Reason.BUNDLE_MALFORMED


def test_it_is_forked_before_there_are_threads(tmp_path: Path) -> None:
    spec, done = spec_of(tmp_path, "pass\n"), threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        with pytest.raises(RuntimeError, match="before threads"):
            ServerAppProcess.fork(spec)
    finally:
        done.set()
        other.join()


def test_an_image_without_flower_is_refused_before_the_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    spec = spec_of(tmp_path, "pass\n")
    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(AppError) as caught:
        ServerAppProcess.fork(spec)
    assert caught.value.reason is Reason.APP_DEPENDENCY
