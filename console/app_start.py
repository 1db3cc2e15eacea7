"""What an app's own server would start from, written down for a plan. Trust zone: the app's author.

Its server runs in the same confinement as inside an aggregator, until its strategy starts. What it says is heard here:
its author asks.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np

from console.initial_model import InitialModel, read_initial_model
from console.output import UserError
from trusted.apps.child import START_TIMEOUT_S, become_alone, confine_app, end_child, read_frame, write_frame
from trusted.apps.config import Scalar
from trusted.errors import AppError, ProtocolError, Reason
from trusted.wire import Fields, decode_json

_FILE = "initial.safetensors"
_MAX_WORDS, _MAX_LINE = 4000, 300
_HINT = "Its server must reach strategy.start(...) by itself. If it cannot, save the model as docs/apps.md shows."


def first_model(app_dir: Path, config: Mapping[str, Scalar], *, seed: int, scratch: Path) -> tuple[InitialModel, bytes]:
    """The model that the server of the unpacked app in ``app_dir`` starts from, and its safetensors file.

    ``scratch`` is an empty folder.

    Raises:
        UserError: it does not come to that, or its model fits no layout; the message says what the app said.
    """
    words = scratch / "words"
    with words.open("wb") as heard:
        sys.stdout.flush()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            _child(app_dir, dict(config), seed, scratch, theirs, heard.fileno())
        theirs.close()
        try:
            with Fields(decode_json(read_frame(ours, time.monotonic() + START_TIMEOUT_S)), "app") as fields:
                error = fields.text("error", max_length=_MAX_WORDS) if fields.has("error") else ""
        except (TimeoutError, EOFError, OSError, ProtocolError):
            error = "it did not start a strategy in time, or ended"
        finally:
            end_child(pid, ours)
    if error:
        last = words.read_text("utf-8", "replace").rstrip().rpartition("\n")[2]
        said = f"Its last words: {last[:_MAX_LINE]}. " if last else ""
        raise UserError(f"the app gives no initial model: {error}", said + _HINT)
    return read_initial_model(scratch / _FILE), (scratch / _FILE).read_bytes()


def _child(
    app_dir: Path, config: dict[str, Scalar], seed: int, scratch: Path, channel: socket.socket, words: int
) -> NoReturn:
    error = ""
    try:
        become_alone((channel.fileno(),), words=words, scratch=scratch, threads=1, memory_bytes=0)
        confine_app((app_dir,), scratch=scratch)
        _write(app_dir, config, seed, scratch / _FILE)
    except AppError as refused:
        error = str(refused)
    except BaseException as raised:  # the shell around the author's code
        traceback.print_exc()
        error = f"it raised {type(raised).__name__}"
    finally:
        write_frame(channel, {"error": error[:_MAX_WORDS]} if error else {})
        os._exit(0)


def _write(app_dir: Path, config: dict[str, Scalar], seed: int, path: Path) -> None:
    # Not above: flwr and torch are the child's alone.
    from safetensors.numpy import save_file

    from coordinator.enclave.server_flower import first_arrays

    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.manual_seed(seed)
    arrays = {name: np.asarray(array, order="C") for name, array in first_arrays(app_dir, config).items()}
    if not arrays:
        raise AppError(Reason.SERVER_APP_MODEL, "initial model: the strategy starts from no arrays")
    save_file(arrays, path)
