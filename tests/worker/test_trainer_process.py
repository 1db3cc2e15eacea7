"""The trainer's own process: what it can reach, and what becomes of an app that hangs, dies, lies or talks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.worker.flower_apps import LAYOUT, WELL_BEHAVED, unpacked
from trusted.confinement import Confinement, confine, landlock_abi
from trusted.documents.terms import DpSgd, Unit
from trusted.errors import AppError, Reason
from trusted.hpke import SealingKey
from worker.app_log import End, Reader, open_log
from worker.trainer_process import MAX_FRAME_BYTES, TrainerProcess, TrainerSpec

MODEL = np.arange(LAYOUT.elements, dtype=np.float32)
KEY = SealingKey.generate()
READER = Reader("hospital-a", bytes(32), KEY.public)


@pytest.fixture(autouse=True)
def alone() -> None:
    """A worker forks before it has threads. These tests come first (tests/conftest.py); what is left ends by itself."""
    deadline = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == 1, threading.enumerate()


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


def test_rounds_run_one_after_the_other_and_state_lives_on(tmp_path: Path) -> None:
    body = """\
seen = context.state.metric_records.get("seen", MetricRecord({"rounds": 0}))["rounds"] + 1
context.state["seen"] = MetricRecord({"rounds": seen})
arrays["w"] = arrays["w"] + np.float32(context.run_config["step"])
return answered(message, arrays, {"num-examples": 7, "rounds": seen})
"""
    with trainer(tmp_path, body, step=2) as process:
        for number in (1, 2):
            result = process.train(MODEL, number, 30)
            np.testing.assert_array_equal(result.delta, [2, 2, 2, 2, 2, 2, 0, 0, 0])
            assert (result.num_examples, result.metrics) == (7, {"rounds": number})


def test_the_proximal_term_of_the_plan_comes_to_the_app(tmp_path: Path) -> None:
    body = """\
mu = message.content["config"]["proximal-mu"]
return answered(message, arrays, {"num-examples": 7, "mu": mu})
"""
    process = TrainerProcess.start(replace(spec_of(tmp_path, body), train_config={"proximal-mu": 0.25}), timeout_s=60)
    try:
        assert process.train(MODEL, 1, 30).metrics == {"mu": 0.25}
    finally:
        process.stop()


def test_a_result_does_not_change_when_the_next_round_is_trained(tmp_path: Path) -> None:
    body = WELL_BEHAVED.replace(
        "np.float32(context",
        "np.float32(arrays['scale'] * 0 + message.content['config']['server-round']) * np.float32(context",
    )
    with trainer(tmp_path, body) as process:
        first = process.train(MODEL, 1, 30)
        kept = first.delta.copy()
        assert not np.array_equal(process.train(MODEL, 2, 30).delta, kept)
        np.testing.assert_array_equal(first.delta, kept)


def test_an_exception_is_a_reason_and_its_words_go_to_the_sites_log_alone(tmp_path: Path, capfd) -> None:
    body = "print('printed Ada'); import sys; sys.stderr.write('shouted Ada'); raise ValueError('row of Ada')"
    with trainer(tmp_path, body) as process:
        error = refused(process)
        assert error.reason is Reason.APP_FAILED
        assert "Ada" not in str(error)
        assert refused(process).reason is Reason.APP_FAILED  # the process still answers
    stored = (tmp_path / "app.log").read_bytes()
    assert not any(words in stored for words in (b"printed Ada", b"shouted Ada", b"row of Ada"))
    log = words_in(tmp_path / "app.log")
    assert all(words in log for words in ("printed Ada", "shouted Ada", "row of Ada"))
    assert "Ada" not in "".join(capfd.readouterr())
    assert (tmp_path / "app.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("arrays['w'] = arrays['w'].T.copy()\nreturn answered(message, arrays, {'num-examples': 1})", Reason.APP_REPLY),
        ("return answered(message, arrays, {'loss': 1.0})", Reason.APP_REPLY),
        ("return answered(message, arrays, {'num-examples': 1, 'loss': float('nan')})", Reason.APP_REPLY),
        ("arrays['w'][:] = np.nan\nreturn answered(message, arrays, {'num-examples': 1})", Reason.APP_REPLY),
        ("import os\nos._exit(0)", Reason.APP_FAILED),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", Reason.APP_FAILED),
    ],
)
def test_a_bad_answer_is_a_reason(tmp_path: Path, body: str, reason: Reason) -> None:
    with trainer(tmp_path, body) as process:
        assert refused(process).reason is reason


def test_an_app_that_hangs_is_ended_at_its_deadline_and_does_not_come_back(tmp_path: Path) -> None:
    with trainer(tmp_path, "import time\ntime.sleep(600)") as process:
        assert refused(process, timeout_s=0.3).reason is Reason.APP_TIMEOUT
        assert gone(process.pid)
        assert refused(process).reason is Reason.APP_FAILED


def test_an_app_that_works_is_seen_to_work_and_one_that_hangs_is_not(tmp_path: Path) -> None:
    """The kernel's count of its processor time, which the app cannot write."""
    body = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\ntime.sleep(600)"
    with trainer(tmp_path, body) as process:
        waiting = threading.Thread(target=lambda: refused(process, timeout_s=60))
        before = process.beat()
        waiting.start()
        until(lambda: process.beat() - before >= 20)
        until(lambda: has_settled(process))
        process.stop()
        waiting.join(5)
        assert process.beat() == 0


@pytest.mark.parametrize("body", ["import time\ntime.sleep(600)", "while True: pass"], ids=["sleeps", "computes"])
def test_training_that_is_stopped_from_another_thread_ends_long_before_its_deadline(tmp_path: Path, body: str) -> None:
    with trainer(tmp_path, body) as process:
        found: list[Reason] = []
        waiting = threading.Thread(target=lambda: found.append(refused(process, timeout_s=60).reason))
        waiting.start()
        time.sleep(0.5)
        process.stop()
        waiting.join(20)
        assert found == [Reason.APP_FAILED]
        assert ended(process.pid)


def test_a_worker_that_has_confined_itself_still_ends_an_app_that_hangs(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "import time\ntime.sleep(600)")
    ours, theirs = socket.socketpair()
    worker = os.fork()
    if worker == 0:
        process = TrainerProcess.start(spec, timeout_s=60)
        confine(Confinement(readable=(Path("/"),), writable=(tmp_path,), connect_ports=(443,), allow_exec=False))
        with contextlib.suppress(AppError):
            process.train(MODEL, 1, 0.3)
        theirs.sendall(b"gone" if gone(process.pid) else b"left")
        os._exit(0)
    theirs.close()
    said = ours.recv(4)
    os.waitpid(worker, 0)
    ours.close()
    assert said == b"gone"


def test_an_app_that_hangs_while_it_is_imported_is_ended(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    client = next(spec.app_dir.glob("*/client_app.py"))
    client.chmod(0o600)
    client.write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(AppError) as error:
        TrainerProcess.start(spec, timeout_s=2)
    assert error.value.reason is Reason.APP_TIMEOUT


def test_an_app_that_cannot_be_loaded_is_refused_at_the_start(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, unknown=1)
    with pytest.raises(AppError) as error:
        TrainerProcess.start(spec, timeout_s=60)
    assert error.value.reason is Reason.BUNDLE_MALFORMED
    assert "plan.app.config" in words_in(spec.log_file)


@pytest.mark.parametrize(
    "frame",
    [
        b"not json", b"{}", b'{"reason":0}', b'{"metrics":{},"num_examples":1,"reason":0,"words":"Ada"}',
        b'{"metrics":{"Ada":"Ada"},"num_examples":1,"reason":0}', b'{"metrics":{},"num_examples":0,"reason":0}',
        b'{"metrics":{},"num_examples":1.5,"reason":0}', b'{"reason":-1}', b'{"reason":"Ada"}',
    ],
)  # fmt: skip
def test_an_app_that_forges_the_childs_answer_gets_a_reason_and_no_word_out(tmp_path: Path, frame: bytes) -> None:
    body = f"""\
import socket, os
for fd in range(3, 64):
    try:
        os.write(fd, {len(frame).to_bytes(4, "big") + frame!r})
    except OSError:
        pass
return answered(message, arrays, {{"num-examples": 1}})
"""
    with trainer(tmp_path, body) as process:
        error = refused(process)
        assert error.reason is Reason.APP_REPLY
        assert "Ada" not in str(error)
        assert gone(process.pid)


def test_a_forged_reason_that_no_app_can_have_becomes_app_failed(tmp_path: Path) -> None:
    body = """\
import os
for fd in range(3, 64):
    try:
        os.write(fd, (14).to_bytes(4, "big") + b'{"reason":214}')
    except OSError:
        pass
return answered(message, arrays, {"num-examples": 1})
"""
    with trainer(tmp_path, body) as process:
        assert refused(process).reason is Reason.APP_FAILED


def test_an_announced_frame_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    size = MAX_FRAME_BYTES + 1
    body = f"""\
import os
for fd in range(3, 64):
    try:
        os.write(fd, ({size}).to_bytes(4, "big"))
    except OSError:
        pass
"""
    with trainer(tmp_path, body) as process:
        assert refused(process).reason is Reason.APP_FAILED
        assert gone(process.pid)


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


@pytest.mark.parametrize("wrong", [MODEL[:-1], MODEL.astype(np.float64)])
def test_a_model_of_another_form_is_the_callers_error(tmp_path: Path, wrong) -> None:
    with trainer(tmp_path) as process:
        with pytest.raises(ValueError, match="float32"):
            process.train(wrong, 1, 30)
        assert process.train(MODEL, 1, 30).num_examples == 10


def test_the_handle_shows_no_channel_or_model(tmp_path: Path) -> None:
    with trainer(tmp_path) as process:
        assert "_channel" not in repr(process)
        assert "mmap" not in repr(process)


EXAMPLE = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from trusted.documents.layout import Layout
from trusted.documents.terms import DatasetContract
from trusted.apps.bundle import build_bundle, bundle_digest, unpack_bundle
from datetime import UTC, datetime
from worker.contract import Gate
from worker.dataset import Source, admit_dataset
from worker.trainer_process import TrainerProcess, TrainerSpec

work = Path(sys.argv[1])
bundle = build_bundle(Path("examples/rand_hie"))
app = unpack_bundle(bundle, expected=bundle_digest(bundle), into=work / "app")
columns = tuple(Path("data/rand_hie/site-5.csv").read_text().splitlines()[0].replace("black,", "").split(","))
(work / "data").mkdir()
gate = Gate(DatasetContract(500, columns), datetime.now(UTC))
admit_dataset(Source(Path("data/rand_hie/site-5.csv")), gate, into=work / "data", secret=bytes(32))
(work / "scratch").mkdir()
shapes = {"hidden.weight": [16, 24], "hidden.bias": [16], "out.weight": [1, 16], "out.bias": [1]}
layout = Layout.parse([{"name": n, "dtype": "float32", "shape": s} for n, s in shapes.items()])
spec = TrainerSpec(app, work / "data", layout, {"learning-rate": 0.1}, work / "log", work / "scratch")
trainer = TrainerProcess.start(spec)
model = np.zeros(layout.elements, np.float32)
for number in (1, 2):
    result = trainer.train(model, number, 60)
trainer.stop()
print(result.num_examples, sorted(result.metrics), "torch" in sys.modules)
"""


@pytest.mark.slow
def test_the_example_trains_confined_from_its_bundle_on_admitted_columns(tmp_path: Path) -> None:
    # An interpreter of its own: PyTorch does not survive a fork of a process that has trained.
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE, str(tmp_path)], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "557 ['auc', 'train-loss', 'val-loss'] False", done.stderr


def test_importing_the_handle_imports_neither_flower_nor_grpc_nor_torch() -> None:
    code = "import sys, worker.trainer_process as t; print(sorted({'flwr', 'grpc', 'torch'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- judging ---------------------------------------------------------------------------------------------------------

SEES = """\
import csv, pathlib
files = sorted(pathlib.Path(context.node_config["data-path"]).glob("*.csv"))
values = [float(row["a"]) for file in files for row in csv.DictReader(file.open())]
"""
TRAINS_ON_ALL = SEES + WELL_BEHAVED.replace('"num-examples": 10', '"num-examples": len(values)')
SCORES = (
    SEES
    + """\
reply = answered(message, None, {"num-examples": len(values), "auc": 0.6})
if message.content["config"].get("cloister-rows"):
    arrays = {"row": np.arange(len(values)), "score": np.array(values) / 100, "held-out": np.arange(len(values)) % 2}
    reply.content["cloister-rows"] = ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})
return reply
"""
)


@contextlib.contextmanager
def judging(tmp_path: Path, evaluate: str, train: str = TRAINS_ON_ALL) -> Iterator[TrainerProcess]:
    spec = spec_of(tmp_path, train)
    (tmp_path / "data" / "site.csv").write_text("a,b\n" + "".join(f"{at},2\n" for at in range(100)))
    app_dir = unpacked(tmp_path, train=train, evaluate=evaluate)
    process = TrainerProcess.start(replace(spec, app_dir=app_dir, rows=100), timeout_s=60)
    try:
        yield process
    finally:
        process.stop()


def test_an_app_that_offers_it_scores_rows_and_trains_shadows_on_halves(tmp_path: Path) -> None:
    with judging(tmp_path, SCORES) as process:
        plain = process.train(MODEL, 1, 30)
        assert plain.metrics["auc"] == 0.6, "in a round nobody asks for rows"
        judged = process.judge(MODEL, 2, 30)
        assert judged.num_examples == 100
        assert judged.rows is not None
        np.testing.assert_allclose(judged.rows.scores, np.arange(100, dtype=np.float32) / 100)
        shadow = process.shadow(MODEL, 7, 2, 30)
        assert len(shadow.rows) == 100, "a shadow scores all rows"
        assert not (tmp_path / "scratch" / "shadow-data").exists()
        assert process.train(MODEL, 3, 30).num_examples == 100


def test_an_app_that_keeps_what_it_read_makes_no_shadow(tmp_path: Path) -> None:
    kept = 'len(globals().setdefault("kept", values))'
    caching = TRAINS_ON_ALL.replace("len(values)", kept)
    with judging(tmp_path, SCORES, caching) as process:
        process.train(MODEL, 1, 30)
        with pytest.raises(AppError) as error:
            process.shadow(MODEL, 7, 1, 30)
        assert error.value.reason is Reason.AUDIT_SHADOWS
        assert process.judge(MODEL, 2, 30).rows is not None, "and goes on"


def test_scores_that_cannot_be_right_are_a_reason_and_the_child_goes_on(tmp_path: Path) -> None:
    with judging(tmp_path, SCORES.replace("np.array(values) / 100", "np.array(values)")) as process:
        with pytest.raises(AppError) as error:
            process.judge(MODEL, 2, 30)
        assert error.value.reason is Reason.APP_ROWS
        assert process.train(MODEL, 3, 30).num_examples == 100


def test_an_app_without_the_hook_is_judged_by_its_metrics(tmp_path: Path) -> None:
    with judging(tmp_path, 'return answered(message, None, {"num-examples": 4, "auc": 0.5})') as process:
        judged = process.judge(MODEL, 2, 30)
        assert (judged.num_examples, judged.metrics, judged.rows) == (4, {"auc": 0.5}, None)


PRIVATE = DpSgd(Unit.RECORD, 1.0, 2.0, 0.5, 3)
PRIVATE_STEPS = """
import torch
from worker import dp_sgd

assert dp_sgd.terms().max_steps == 3
net = torch.nn.Linear(2, 1)
rows = torch.utils.data.TensorDataset(torch.ones((8, 2)))
private, optimizer, loader = dp_sgd.make_private(net, torch.optim.SGD(net.parameters(), lr=0.1), rows)
for (batch,) in loader:
    optimizer.zero_grad()
    private(batch).mean().backward()
    optimizer.step()
return answered(message, arrays, {"num-examples": 8})
"""


@contextlib.contextmanager
def private_trainer(tmp_path: Path, body: str) -> Iterator[TrainerProcess]:
    process = TrainerProcess.start(replace(spec_of(tmp_path, body), private=PRIVATE), timeout_s=60)
    try:
        yield process
    finally:
        process.stop()


def test_an_app_that_makes_no_private_step_under_dp_sgd_is_refused(tmp_path: Path) -> None:
    with private_trainer(tmp_path, WELL_BEHAVED) as process:
        assert refused(process).reason is Reason.APP_NOT_PRIVATE
        assert refused(process).reason is Reason.APP_NOT_PRIVATE  # this round failed, and the process lives


@pytest.mark.slow
def test_an_app_that_trains_privately_is_counted_round_by_round(tmp_path: Path) -> None:
    with private_trainer(tmp_path, PRIVATE_STEPS) as process:
        assert [process.train(MODEL, number, 120).private_steps for number in (1, 2)] == [3, 3]
