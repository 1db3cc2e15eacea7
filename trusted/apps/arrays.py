"""A model as named arrays, and back to the flat vector of a plan. Trust zone: every TEE that runs an app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trusted.documents.layout import Dtype, Layout
from trusted.encoding import Vector
from trusted.errors import AppError, Reason

Arrays = Mapping[str, NDArray[Any]]


def split_vector(layout: Layout, vector: Vector) -> dict[str, NDArray[Any]]:
    """The named arrays in ``vector``, float32[elements]: fresh copies of each tensor's dtype, ``int64`` rounded.

    Raises:
        ValueError: ``vector`` has another dtype or length.
    """
    if vector.dtype != np.float32 or vector.shape != (layout.elements,):
        raise ValueError(f"model: float32[{layout.elements}] expected")
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for spec in layout.tensors:
        part = vector[start : start + spec.elements].reshape(spec.shape)
        whole = spec.dtype is Dtype.INT64
        arrays[spec.name] = np.asarray(np.rint(part) if whole else part).astype(spec.dtype.value)
        start += spec.elements
    return arrays


def is_like(layout: Layout, arrays: Arrays) -> bool:
    """Whether ``arrays`` have exactly the names and shapes of ``layout``, whatever their dtypes."""
    shapes = {name: array.shape for name, array in arrays.items()}
    return shapes == {spec.name: spec.shape for spec in layout.tensors}


def final_vector(layout: Layout, arrays: Arrays) -> Vector:
    """The flat float32[elements] of a model that an app's own server made; ``int64`` tensors are rounded.

    Its dtypes are what the app's arithmetic left of them: Flower's FedAdam makes float64 of float32, and its FedAvg of
    a counter.

    Raises:
        AppError: SERVER_APP_MODEL: other names or shapes, no real numbers, or one that is not finite in float32.
    """
    if not is_like(layout, arrays):
        raise AppError(
            Reason.SERVER_APP_MODEL, "final model: exactly the names and shapes of the plan's layout expected"
        )
    vector = np.empty(layout.elements, dtype="<f4")
    start = 0
    for spec in layout.tensors:
        array = arrays[spec.name]
        if array.dtype.kind not in "fiub":
            raise AppError(Reason.SERVER_APP_MODEL, "final model: real numbers expected")
        whole = spec.dtype is Dtype.INT64
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinity, and is refused below
            vector[start : start + spec.elements] = (np.rint(array) if whole else array).reshape(-1)
        start += spec.elements
    if not np.isfinite(vector).all():
        raise AppError(Reason.SERVER_APP_MODEL, "final model: finite numbers expected")
    return vector
