"""The trainer's own process: what it can reach, and what becomes of an app that hangs, dies, lies or talks."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.worker.flower_apps import WELL_BEHAVED
from tests.worker.trainer_processes import MODEL, ended, gone, has_settled, refused, spec_of, trainer, until, words_in
from trusted.confinement import Confinement, confine
from trusted.errors import AppError, Reason
from worker.trainer_process import MAX_FRAME_BYTES, TrainerProcess

pytestmark = pytest.mark.usefixtures("alone")


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
