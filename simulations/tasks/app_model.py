"""The model that a Flower app starts from: a safetensors file, or what its own ServerApp begins with.

Trust zone: the developer's machine. The app's code runs here, as under ``flwr run``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from flwr.app import Context, RecordDict
from flwr.common.config import flatten_dict, get_project_config
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from flwr.supercore.object_ref import load_app
from numpy.typing import NDArray

from console.initial_model import read_initial_model
from trusted.documents.layout import Layout
from trusted.documents.terms import Scalar
from trusted.encoding import Vector
from trusted.errors import AppError, Reason
from worker.flower import fuse_config
from worker.trainer import join_arrays

Arrays = Mapping[str, NDArray[Any]]


def initial_model(given: Path | Arrays | None, app_dir: Path, config: Mapping[str, Scalar]) -> tuple[Layout, Vector]:
    """From a safetensors file, from arrays by name, or from what the app's ServerApp hands to its strategy.

    Raises:
        UserError, OSError: the file is none. AppError: the app says nothing of it, or arrays that no layout has.
    """
    if isinstance(given, Path):
        read = read_initial_model(given)
        return read.layout, read.vector
    arrays = _of_server_app(app_dir, config) if given is None else given
    layout = Layout.parse(
        [{"name": name, "dtype": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()],
        "initial",
    )
    return layout, join_arrays(layout, arrays)


class _Begins(BaseException):
    """A ServerApp starts its strategy. Not an Exception, which an app might catch."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        self.arrays = arrays


class _NoGrid(Grid):  # type: ignore[misc]
    """Nobody is there yet."""

    run = property(lambda self: None)

    def set_run(self, *args: Any) -> None:
        """Of no use."""

    def _nobody(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AppError(Reason.BUNDLE_MALFORMED, _SILENT)

    create_message = get_node_ids = push_messages = pull_messages = send_and_receive = _nobody


_SILENT = "app: its ServerApp starts no strategy with initial arrays; give the initial model"


def _of_server_app(app_dir: Path, config: Mapping[str, Scalar]) -> Arrays:
    """Run it until it starts its strategy."""
    settings = get_project_config(app_dir)["tool"]["flwr"]["app"]
    reference = str(settings["components"].get("serverapp", ""))
    fused = fuse_config(flatten_dict(settings.get("config", {})), config)
    with _captured():
        try:
            server = load_app(reference, AttributeError, app_dir)
            if not isinstance(server, ServerApp):
                raise AppError(Reason.BUNDLE_MALFORMED, _SILENT)
            server(_NoGrid(), Context(1, 1, {}, RecordDict(), fused))
        except _Begins as begins:
            return begins.arrays
        except AppError:
            raise
        except (Exception, SystemExit) as error:  # the app's own code
            said = f"{_SILENT} ({type(error).__name__}: {error})"
            raise AppError(Reason.BUNDLE_MALFORMED, said) from None
    raise AppError(Reason.BUNDLE_MALFORMED, _SILENT)


@contextmanager
def _captured() -> Iterator[None]:
    """Strategies that are started meanwhile say what they start from, and go no further."""
    before = Strategy.start

    def start(self: Strategy, grid: Grid, initial_arrays: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise _Begins({name: np.asarray(array.numpy()) for name, array in initial_arrays.items()})

    Strategy.start = start
    try:
        yield
    finally:
        Strategy.start = before
