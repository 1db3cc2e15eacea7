"""The app that scores, in a confined child that has the model and nothing else. Trust zone: recipient TEE.

The child is forked before keys exist, before threads start and before gRPC is imported, and gives up the network, other
programs and other files, exactly as a worker's trainer does (``worker.trainer_process``). Model, rows and scores pass
through shared anonymous memory. The child may say anything: what it wrote is copied before it is checked.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import sys
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from trusted.apps.arrays import Arrays, split_vector
from trusted.apps.child import START_TIMEOUT_S, end_with_channel, read_frame, say, write_frame
from trusted.confinement import Feature
from trusted.documents.layout import Layout
from trusted.errors import AppError, Reason
from trusted.scoring.messages import Table
from trusted.scoring.terms import Declaration
from trusted.wire import decode_json
from worker.app_log import Reader
from worker.log_process import LogProcess
from worker.trainer import Log, Vector
from worker.trainer_process import (
    TrainerProcess,
    TrainerSpec,
    _become_alone,
    _Child,
    _confine,
)

_NUMBER_BYTES = 8
_LOAD_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ScorerSpec:
    """What a scorer process is given.

    Attributes:
        app_dir: the app, from ``unpack_bundle``.
        layout: the plan's.
        config: the plan's ``app.config``.
        declaration: of the app.
        max_rows: how many rows are scored at a time.
        log_file: where the app's own words go, sealed for ``log_reader``: they may quote rows.
        scratch: an existing folder that the app may write to.
        empty: an existing folder in the place of a site's data: there is none here.
        log_reader: the member that runs this; None: nobody hears the app's words.
    """

    app_dir: Path
    layout: Layout
    config: dict[str, bool | int | float | str]
    declaration: Declaration
    max_rows: int
    log_file: Path
    scratch: Path
    empty: Path
    log_reader: Reader | None = None

    @property
    def trainer(self) -> TrainerSpec:
        """The same, as what confines a trainer takes it."""
        return TrainerSpec(
            app_dir=self.app_dir,
            data=self.empty,
            layout=self.layout,
            config=self.config,
            log_file=self.log_file,
            scratch=self.scratch,
        )


@dataclass(slots=True)
class Scorer:
    """The parent's handle of a running child. One call at a time."""

    spec: ScorerSpec
    _child: TrainerProcess = field(repr=False)
    _model: mmap.mmap = field(repr=False)
    _rows: mmap.mmap = field(repr=False)
    _scores: mmap.mmap = field(repr=False)
    features: tuple[Feature, ...] = ()

    @classmethod
    def start(cls, spec: ScorerSpec) -> Scorer:
        """Fork, and wait until the app is imported in the child; it has no model yet.

        Raises:
            RuntimeError: threads run already: the caller came too late.
            AppError: BUNDLE_MALFORMED, APP_FAILED, APP_TIMEOUT: the app cannot be loaded, or answers no queries.
        """
        if threading.active_count() != 1:
            raise RuntimeError("scorer: must be started before threads are")
        sys.stdout.flush()
        sys.stderr.flush()
        log = LogProcess.start(spec.log_file, spec.log_reader)
        ours, theirs = socket.socketpair()
        declared = spec.declaration
        sizes = (spec.layout.size_bytes, *(spec.max_rows * _NUMBER_BYTES * n for n in _widths(declared)))
        model, rows, scores = (mmap.mmap(-1, size) for size in sizes)
        pid = os.fork()
        if pid == 0:
            _child(spec, _Child(theirs, log.descriptor, model, scores), rows)
        theirs.close()
        os.close(log.descriptor)
        scorer = cls(spec, TrainerProcess(pid, spec.layout, ours, model, scores, log), model, rows, scores)
        try:
            with scorer._child._answered(START_TIMEOUT_S) as fields:
                names = fields.items("features", max_items=64)
        except AppError:
            scorer.wipe()
            raise
        scorer.features = tuple(feature for feature in Feature if feature.value in names)
        return scorer

    def load(self, model: Vector) -> None:
        """Give the child ``model``, float32[elements] of the whole layout; nothing of it stays in shared memory.

        Raises:
            AppError: the child has ended.
        """
        np.frombuffer(self._model, np.float32)[:] = model
        try:
            self._ask({"load": True}, _LOAD_TIMEOUT_S)
        finally:
            _overwrite(self._model)

    def score(self, values: Table, timeout_s: float) -> Table:
        """The scores, float64[rows, outputs], finite, of ``values``, float64[rows, inputs]; blocks for ``timeout_s``.

        Raises:
            AppError: APP_FAILED, APP_REPLY: not for these rows. APP_TIMEOUT: the child has been ended.
        """
        rows, (columns, outputs) = len(values), _widths(self.spec.declaration)
        np.frombuffer(self._rows, np.float64, rows * columns)[:] = values.reshape(-1)
        try:
            self._ask({"rows": rows}, timeout_s)
            scores = np.frombuffer(self._scores, np.float64, rows * outputs).copy().reshape(rows, outputs)
        finally:
            _overwrite(self._rows)
            _overwrite(self._scores)
        if not np.isfinite(scores).all():
            raise AppError(Reason.APP_REPLY, "app's reply: finite scores expected")
        digits = self.spec.declaration.digits
        return scores if digits is None else np.asarray(np.round(scores, digits))

    def wipe(self) -> None:
        """End the child, which has the only copy of the model, and overwrite what was shared. May be called twice."""
        self._child.stop()
        for shared in (self._model, self._rows, self._scores):
            _overwrite(shared)

    def _ask(self, request: dict[str, bool | int], timeout_s: float) -> None:
        self._child._send(request)
        with self._child._answered(timeout_s):
            pass


def _widths(declaration: Declaration) -> tuple[int, int]:
    return len(declaration.inputs), len(declaration.outputs)


def _overwrite(shared: mmap.mmap) -> None:
    np.frombuffer(shared, np.uint8)[:] = 0


def _child(spec: ScorerSpec, kept: _Child, rows: mmap.mmap) -> NoReturn:
    """The whole life of the child. It leaves by ``_exit`` alone: no handler or buffer of the parent may run here."""
    code = 1
    try:
        _become_alone(spec.trainer, kept)
        features = _confine(spec.trainer)
        threading.Thread(target=end_with_channel, args=(kept.channel.fileno(),), daemon=True).start()
        _serve(spec, kept, rows, features)
        code = 0
    except BaseException:  # the process shell
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exc()
            sys.stderr.flush()
    finally:
        os._exit(code)


def _serve(spec: ScorerSpec, kept: _Child, rows: mmap.mmap, features: tuple[Feature, ...]) -> None:
    """Load the app, then answer requests until the parent ends."""
    # Not above: flwr imports gRPC, which the parent must not have when it forks; frameworks are the child's alone.
    from worker.flower import FlowerApp

    model = np.empty(0, np.float32)
    try:
        app = FlowerApp.load(spec.app_dir, config=spec.config, node_config={}, log=say)
        app.require_query()
    except AppError as error:
        _refuse(kept, error)
        return
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    write_frame(kept.channel, {"reason": 0, "features": [feature.value for feature in features]})
    while True:
        try:
            request = decode_json(read_frame(kept.channel, None))
        except EOFError:
            return
        try:
            if "load" in request:
                model = np.frombuffer(kept.model, np.float32).copy()
            else:
                inputs = _inputs(spec.declaration, rows, request["rows"])
                answered = app.query(split_vector(spec.layout, model), inputs)
                scores = joined_scores(spec.declaration, answered, request["rows"], say)
                np.frombuffer(kept.delta, np.float64, scores.size)[:] = scores.reshape(-1)
        except AppError as error:
            _refuse(kept, error)
            continue
        write_frame(kept.channel, {"reason": 0})


def _refuse(kept: _Child, error: AppError) -> None:
    say(str(error))
    write_frame(kept.channel, {"reason": int(error.reason)})


def _inputs(declaration: Declaration, shared: mmap.mmap, rows: int) -> dict[str, Table]:
    columns = len(declaration.inputs)
    table = np.frombuffer(shared, np.float64, rows * columns).reshape(rows, columns)
    return {name: table[:, place].copy() for place, name in enumerate(declaration.inputs)}


def joined_scores(declaration: Declaration, answered: Arrays, rows: int, log: Log) -> Table:
    """The table float64[rows, outputs] of what the app answered, which may be wrong in any way.

    Raises:
        AppError: APP_REPLY: other names than declared, other shapes than [rows], or no numbers.
    """
    if set(answered) != set(declaration.outputs):
        raise AppError(Reason.APP_REPLY, "app's scores: exactly the names of its declared outputs expected")
    table = np.empty((rows, len(declaration.outputs)), np.float64)
    for place, name in enumerate(declaration.outputs):
        array = answered[name]
        if array.shape != (rows,) or array.dtype.kind not in "fiu":
            log(f"scores {name!r}: {array.dtype}{list(array.shape)}")
            raise AppError(Reason.APP_REPLY, "app's scores: one real number for each row expected")
        table[:, place] = array
    return table
