"""The model that a Flower app starts from: a safetensors file, or what its own ServerApp begins with.

Trust zone: the developer's machine. The app's code runs here, as under ``flwr run``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from console.initial_model import read_initial_model
from coordinator.enclave.server_flower import first_arrays
from trusted.documents.layout import Layout
from trusted.documents.terms import Scalar
from trusted.encoding import Vector
from trusted.errors import AppError, Reason
from worker.trainer import join_arrays

_SILENT = "app: its ServerApp starts no strategy with initial arrays; give the initial model"

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


def _of_server_app(app_dir: Path, config: Mapping[str, Scalar]) -> Arrays:
    """Run it until it starts its strategy."""
    try:
        return first_arrays(app_dir, config)
    except AppError as error:
        raise AppError(error.reason, f"{_SILENT} ({error.detail})") from None
    except (Exception, SystemExit) as error:  # the app's own code
        raise AppError(Reason.SERVER_APP_FAILED, f"{_SILENT} ({type(error).__name__}: {error})") from None
