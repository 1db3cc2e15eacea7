"""The member's app trains in a process of its own that has the data and nothing else. Trust zone: worker.

The child is forked before keys exist, before threads start and before gRPC is imported: it inherits no secret, no
socket but one to its parent, and no environment. It then gives up the network, other programs and other files, waits
until its parent has checked the data, and only then imports flwr and the app. Models and updates pass through shared
anonymous memory, words about them as small canonical JSON.

The app runs in the child, so the child may say anything: the parent reads its frames with a bound and a deadline,
copies the update before it checks it, and takes over reason numbers, never text.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from trusted.apps.child import (
    MAX_FRAME_BYTES,
    START_TIMEOUT_S,
    become_alone,
    confine_app,
    end_child,
    end_with_channel,
    read_frame,
    say,
    write_frame,
)
from trusted.confinement import Feature
from trusted.documents.layout import Layout
from trusted.documents.terms import Change, DpSgd
from trusted.documents.terms.privacy import MAX_STEPS
from trusted.errors import AppError, ProtocolError, Reason
from trusted.wire import Fields, decode_json
from worker import dp_sgd
from worker.app_log import Reader
from worker.log_process import LogProcess
from worker.rows import RECORD_BYTES, RowScores, kept_rows, shared_rows
from worker.strata import write_part
from worker.trainer import MAX_METRICS, Call, Judged, Trainer, TrainResult, Vector

Scalar = bool | int | float | str

_LARGEST = 1 << 53
_SAID = {
    Reason.BUNDLE_MALFORMED: "app: cannot be loaded; see the site's log",
    Reason.APP_FAILED: "app: it raised; see the site's log",
    Reason.APP_REPLY: "app's reply: not in the plan's layout or not finite; see the site's log",
    Reason.APP_NOT_PRIVATE: "app: it trained otherwise than plan.privacy allows; see the site's log",
    Reason.APP_MEMORY: "app: it asked for more memory than this site gives it; see the site's log",
    Reason.APP_ROWS: "app's scores: not of different admitted rows, or no chances; see the site's log",
    Reason.MESSAGE_FORM: "app's message: not in the form of one; see the site's log",
    Reason.MESSAGE_SIZE: "app's message: larger than plan.aggregation.max_message_mib",
    Reason.AUDIT_SHADOWS: "audit: the app does not train on the data that it is given",
}


@dataclass(frozen=True, slots=True)
class TrainerSpec:
    """What a trainer process is given.

    Attributes:
        app_dir: the app, from ``unpack_bundle``.
        data: a folder that ``admit_dataset`` fills with CSV files before ``load``; the app finds it as
            ``context.node_config["data-path"]``.
        layout: the plan's.
        config, train_config, evaluate_config, changes: the plan's, of ``app``.
        log_file: where the app's own words go, sealed for ``log_reader``: they may hold the member's data.
        scratch: an existing folder that the app may write to; its working directory.
        threads: how many cores the app may use.
        private: how it must train, where the plan asks for DP-SGD.
        log_reader: the member; None: nobody hears the app's words.
        memory_bytes: how much memory the app may ask for; 0: three quarters of the machine's.
        rows: what :meth:`TrainerProcess.start` says to ``load``.
        message_bytes: of every message that the app's own server sends and gets; 0: it sends none.
    """

    app_dir: Path
    data: Path
    layout: Layout
    config: Mapping[str, Scalar]
    log_file: Path
    scratch: Path
    threads: int = 1
    private: DpSgd | None = None
    train_config: Mapping[str, Scalar] = field(default_factory=dict)
    evaluate_config: Mapping[str, Scalar] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    log_reader: Reader | None = None
    memory_bytes: int = 0
    rows: int = 0
    message_bytes: int = 0


@dataclass(slots=True)
class TrainerProcess:
    """The parent's handle of a running child. One call at a time; after an error of time or form the child is gone.

    Attributes:
        features: which limits truly hold for the child, by its own word. For the site's log: this is no evidence.
        offers: what the app can be asked, by its own word.
    """

    pid: int
    layout: Layout
    _channel: socket.socket = field(repr=False)
    _model: mmap.mmap = field(repr=False)
    _delta: mmap.mmap = field(repr=False)
    _log: LogProcess = field(repr=False)
    private: DpSgd | None = None
    _shared: int = field(default=-1, repr=False)
    features: tuple[Feature, ...] = ()
    offers: tuple[Call, ...] = ()
    _rows: mmap.mmap | None = field(default=None, repr=False)
    _message: mmap.mmap | None = field(default=None, repr=False)
    _admitted: int = 0
    _alive: bool = True

    @classmethod
    def start(cls, spec: TrainerSpec, *, timeout_s: float = START_TIMEOUT_S) -> TrainerProcess:
        """Fork, and wait until the app is loaded in the child; errors as of :meth:`fork` and :meth:`load`."""
        process = cls.fork(spec)
        process.load(rows=spec.rows, timeout_s=timeout_s)
        return process

    @classmethod
    def fork(cls, spec: TrainerSpec) -> TrainerProcess:
        """Fork a child that waits, confined, and loads no code of a member yet: what is read from now on it has not.

        Raises:
            RuntimeError: threads run already: the caller came too late.
        """
        if threading.active_count() != 1:
            raise RuntimeError("trainer process: must be started before threads are")
        sys.stdout.flush()
        sys.stderr.flush()
        log = LogProcess.start(spec.log_file, spec.log_reader)
        ours, theirs = socket.socketpair()
        model, delta = (mmap.mmap(-1, spec.layout.size_bytes) for _ in range(2))
        rows = os.memfd_create("rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)  # sized once the rows are counted
        message = mmap.mmap(-1, spec.message_bytes) if spec.message_bytes else None
        pid = os.fork()
        if pid == 0:
            _child(spec, _Child(theirs, log.descriptor, model, delta, rows, message=message))
        theirs.close()
        os.close(log.descriptor)
        return cls(pid, spec.layout, ours, model, delta, log, spec.private, _shared=rows, _message=message)

    def load(self, *, rows: int = 0, timeout_s: float = START_TIMEOUT_S) -> None:
        """Let the child load the app, now that its data lies in ``spec.data``; waits until it has.

        ``rows``: how many there are, where the plan has models judged row by row; else 0.

        Raises:
            AppError: BUNDLE_MALFORMED, APP_FAILED, APP_TIMEOUT: the app cannot be loaded; the child is gone.
        """
        self._admitted = rows
        if rows:
            self._rows = shared_rows(self._shared, rows)
        os.close(self._shared)
        try:
            self._send({"load": rows})
            with self._answered(timeout_s) as fields:
                names, offered = fields.items("features", max_items=64), fields.items("offers", max_items=8)
        except AppError:
            self.stop()
            raise
        self.features = tuple(feature for feature in Feature if feature.value in names)
        self.offers = tuple(call for call in Call if call.value in offered)

    def train(self, model: Vector, round: int, timeout_s: float) -> TrainResult:
        """One round from ``model``, float32[elements]; blocks for ``timeout_s`` at most.

        Raises:
            ValueError: ``model`` is not float32[elements].
            AppError: APP_FAILED, APP_REPLY, APP_NOT_PRIVATE: this round failed. APP_TIMEOUT: it took too long; the
                child has been ended.
        """
        self._ask(model, {"round": round})
        with self._answered(timeout_s) as fields:
            examples = fields.integer("num_examples", low=1, high=_LARGEST)
            metrics = _read_metrics(fields)
            steps = fields.integer("private_steps", low=0, high=MAX_STEPS) if self.private is not None else 0
        if self.private is not None and not 0 < steps <= self.private.max_steps:
            raise AppError(Reason.APP_NOT_PRIVATE, "app: 1 to plan.privacy.max_steps private steps expected")
        delta = np.frombuffer(self._delta, np.float32).copy()  # before the check: the child can still write to it
        if not np.isfinite(delta).all():
            raise AppError(Reason.APP_REPLY, "app's reply: finite numbers expected")
        return TrainResult(delta, examples, metrics, steps)

    def judge(self, model: Vector, round: int, timeout_s: float) -> Judged:
        """Have the app judge ``model``; the same errors as :meth:`train`, and AppError APP_ROWS."""
        self._ask(model, {"judge": round})
        with self._answered(timeout_s) as fields:
            examples = fields.integer("num_examples", low=0, high=_LARGEST)
            count, metrics = fields.integer("rows", low=0, high=self._admitted), _read_metrics(fields)
        return Judged(examples, metrics, self._scores(count) if count else None)

    def shadow(self, initial: Vector, seed: int, calls: int, timeout_s: float) -> RowScores:
        """Have the app train from ``initial``, ``calls`` times, on the half that ``seed`` keeps, and score all rows.

        Raises:
            ValueError, AppError: as :meth:`judge`; AUDIT_SHADOWS: it trained on more than it was given.
        """
        self._ask(initial, {"shadow": seed, "calls": calls})
        with self._answered(timeout_s) as fields:
            count = fields.integer("rows", low=0, high=self._admitted)
        return self._scores(count)

    def respond(self, content: bytes, node: int, number: int, timeout_s: float) -> bytes:
        """What the app answers to a message of its own server; blocks for ``timeout_s`` at most.

        Raises:
            ValueError: ``content`` has not the plan's message size.
            AppError: as :meth:`train`; MESSAGE_FORM, MESSAGE_SIZE.
        """
        if self._message is None or len(content) != len(self._message):
            raise ValueError("message: exactly the plan's message size expected")
        if not self._alive:
            raise AppError(Reason.APP_FAILED, "app: its process has ended")
        self._message[:] = content
        self._send({"respond": number, "node": node})
        with self._answered(timeout_s):
            return bytes(self._message)  # copied before anything looks at it: the child can still write to it

    def _scores(self, count: int) -> RowScores:
        if self._rows is None:
            raise AppError(Reason.APP_ROWS, "app's scores: the plan asks for none")
        return RowScores.copied(self._rows, count, admitted=self._admitted)

    def _ask(self, model: Vector, request: dict[str, Any]) -> None:
        if model.dtype != np.float32 or model.shape != (self.layout.elements,):
            raise ValueError(f"model: float32[{self.layout.elements}] expected")
        if not self._alive:
            raise AppError(Reason.APP_FAILED, "app: its process has ended")
        np.frombuffer(self._model, np.float32)[:] = model
        self._send(request)

    def beat(self) -> int:
        """Hundredths of a second of processor time that the child has used, all its threads together; 0 once it ended.

        The kernel's own count: an app that hangs cannot make it grow, one that is busy cannot hide it. Linux names the
        clock of a process by its id (CPUCLOCK_SCHED of clock_getcpuclockid(3)).
        """
        if not self._alive:
            return 0
        try:
            return int(time.clock_gettime(~self.pid << 3 | 2) * 100)
        except OSError:
            return 0

    def stop(self) -> None:
        """End the child now; it has nothing to save. May be called twice, and while another thread waits in ``train``.

        A worker that has confined itself since may not signal it any more (Landlock's scope), so the child also ends
        itself when its channel closes. Should it do neither within five seconds, it ends with the worker.
        """
        if not self._alive:
            return
        self._alive = False
        end_child(self.pid, self._channel)
        self._log.wait()

    def _send(self, value: dict[str, Any]) -> None:
        try:
            write_frame(self._channel, value)
        except OSError:
            self.stop()
            raise AppError(Reason.APP_FAILED, "app: its process has ended") from None

    @contextlib.contextmanager
    def _answered(self, timeout_s: float) -> Iterator[Fields]:
        """The child's next frame. A refusal becomes an AppError; a frame of another form, or none, ends the child."""
        try:
            frame = read_frame(self._channel, time.monotonic() + timeout_s)
            with Fields(decode_json(frame, max_bytes=MAX_FRAME_BYTES), "trainer") as fields:
                reason = fields.integer("reason", low=0, high=999)
                if reason == 0:
                    yield fields
        except TimeoutError:
            self.stop()
            raise AppError(Reason.APP_TIMEOUT, "app: did not finish within the plan's time") from None
        except (EOFError, OSError):
            self.stop()
            raise AppError(Reason.APP_FAILED, "app: its process has ended; see the site's log") from None
        except ProtocolError:
            self.stop()
            raise AppError(Reason.APP_REPLY, "trainer: its process answered in another form") from None
        if reason:
            known = Reason(reason) if reason in _SAID else Reason.APP_FAILED
            raise AppError(known, _SAID[known])


def _read_metrics(fields: Fields) -> dict[str, float]:
    values = fields.mapping("metrics")
    if len(values) > 2 * MAX_METRICS:
        raise AppError(Reason.APP_REPLY, "trainer: too many metrics")
    with Fields(values, "trainer.metrics") as metrics:
        return {name: metrics.number(name, low=-1e300, high=1e300) for name in values}


@dataclass(frozen=True, slots=True)
class _Child:
    """What the child keeps from the fork."""

    channel: socket.socket
    log: int
    model: mmap.mmap
    delta: mmap.mmap
    memory: int = -1  # of the rows' scores, a memfd that has its size once ``load`` is said; -1: there is none
    rows: mmap.mmap | None = None
    message: mmap.mmap | None = None


def _child(spec: TrainerSpec, kept: _Child) -> NoReturn:
    """The whole life of the child. It leaves by ``_exit`` alone: no handler or buffer of the parent may run here."""
    code = 1
    try:
        _become_alone(spec, kept)
        features = _confine(spec)
        threading.Thread(target=end_with_channel, args=(kept.channel.fileno(),), daemon=True).start()
        _serve(spec, kept, features)
        code = 0
    except BaseException:  # the process shell
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exc()
            sys.stderr.flush()
    finally:
        os._exit(code)


def _become_alone(spec: TrainerSpec, kept: _Child) -> None:
    become_alone(
        (kept.channel.fileno(), kept.memory),
        words=kept.log,
        scratch=spec.scratch,
        threads=spec.threads,
        memory_bytes=spec.memory_bytes,
    )


def _confine(spec: TrainerSpec) -> tuple[Feature, ...]:
    return confine_app((spec.app_dir, spec.data), scratch=spec.scratch)


def _serve(spec: TrainerSpec, kept: _Child, features: tuple[Feature, ...]) -> None:
    """Load the app once it may be, then answer requests until the parent ends."""
    try:
        rows = int(decode_json(read_frame(kept.channel, None))["load"])
    except EOFError:
        return
    if rows:
        spec, kept = replace(spec, rows=rows), replace(kept, rows=mmap.mmap(kept.memory, rows * RECORD_BYTES))
    os.close(kept.memory)
    try:
        trainer = _load(spec)
    except AppError as error:
        say(str(error))
        write_frame(kept.channel, {"reason": int(error.reason)})
        return
    offers = [call.value for call in Call if trainer.offers(call)]
    write_frame(kept.channel, {"reason": 0, "features": [feature.value for feature in features], "offers": offers})
    while True:
        try:
            request = decode_json(read_frame(kept.channel, None))
        except EOFError:
            return
        dp_sgd.set_terms(spec.private)
        model = np.frombuffer(kept.model, np.float32).copy()
        try:
            if "respond" in request:
                answer = _respond(trainer, kept, request["node"], request["respond"])
            elif "judge" in request:
                answer = _judge(trainer, spec, kept, model, request["judge"])
            elif "shadow" in request:
                answer = _shadow(trainer, spec, kept, model, request)
            else:
                answer = _train(trainer, kept, model, request["round"])
        except AppError as error:
            say(str(error))
            write_frame(kept.channel, {"reason": int(error.reason)})
            continue
        write_frame(kept.channel, {"reason": 0, **answer})


def _train(trainer: Trainer, kept: _Child, model: Vector, number: int) -> dict[str, Any]:
    result = trainer.train(model, number)
    np.frombuffer(kept.delta, np.float32)[:] = result.delta
    steps = dp_sgd.steps()
    private = {} if steps is None else {"private_steps": steps}
    return {"num_examples": result.num_examples, "metrics": dict(result.metrics), **private}


def _respond(trainer: Trainer, kept: _Child, node: int, number: int) -> dict[str, Any]:
    if kept.message is None:
        raise AppError(Reason.MESSAGE_SIZE, "message: the plan has no server of the app's own")
    kept.message[:] = trainer.respond(bytes(kept.message), node, number)
    return {}


def _judge(trainer: Trainer, spec: TrainerSpec, kept: _Child, model: Vector, number: int) -> dict[str, Any]:
    judged = trainer.judge(model, number, spec.rows)
    count = judged.rows.write(kept.rows) if judged.rows is not None and kept.rows is not None else 0
    return {"num_examples": judged.num_examples, "metrics": dict(judged.metrics), "rows": count}


def _shadow(
    trainer: Trainer, spec: TrainerSpec, kept: _Child, model: Vector, request: dict[str, int]
) -> dict[str, Any]:
    """Train on a half of the data that lies in a folder of its own, with a fresh Context, then score all rows."""
    half, chosen = spec.scratch / "shadow-data", kept_rows(request["shadow"], spec.rows)
    write_part(spec.data, half, chosen)
    try:
        shadow = trainer.elsewhere(half)
        for call in range(request["calls"]):
            dp_sgd.set_terms(spec.private)  # each call is a round of its own
            result = shadow.train(model, call + 1)
            if result.num_examples > int(chosen.sum()):  # it holds on to what it read before: no shadow at all
                raise AppError(Reason.AUDIT_SHADOWS, "audit: the app trained on more rows than it was given")
            model = model + result.delta
        scored = trainer.elsewhere(spec.data).judge(model, request["calls"], spec.rows)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    if scored.rows is None or kept.rows is None:
        raise AppError(Reason.APP_ROWS, "app's scores: none, though it gave some before")
    return {"rows": scored.rows.write(kept.rows)}


def _load(spec: TrainerSpec) -> Trainer:
    # Not above: flwr imports gRPC, which the parent must not have when it forks; frameworks are the child's alone.
    from worker.flower import FlowerApp

    dp_sgd.set_terms(spec.private)
    # A site is the one partition of its own data: apps that were simulated ask for a partition.
    node: dict[str, Scalar] = {"data-path": str(spec.data), "partition-id": 0, "num-partitions": 1}
    messages = {Call.TRAIN: spec.train_config, Call.EVALUATE: spec.evaluate_config}
    app = FlowerApp.load(
        spec.app_dir, config=spec.config, node_config=node, messages=messages, changes=spec.changes, log=say
    )
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(spec.threads)
    return Trainer(app, spec.layout, say)
