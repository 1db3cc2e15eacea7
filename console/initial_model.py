"""The initial model: from a safetensors file to a layout and a flat vector. Trust zone: the member's own machine.

safetensors holds numbers and nothing that runs; pickled checkpoints are not read at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from console.files import read_bounded
from console.output import UserError
from trusted.documents.layout import Dtype, Layout, TensorSpec, initial_digest
from trusted.wire import MAX_JSON_BYTES, decode_json

_DTYPES = {"F32": Dtype.FLOAT32, "F64": Dtype.FLOAT64, "I64": Dtype.INT64}


@dataclass(frozen=True, slots=True)
class InitialModel:
    """A layout, and the float32 little-endian vector that fills it."""

    layout: Layout
    vector: NDArray[np.float32] = field(repr=False)

    @property
    def digest(self) -> bytes:
        """``plan.model.initial_sha256``."""
        return initial_digest(self.layout, self.vector.data.cast("B"))


def read_initial_model(path: Path, layout_file: Path | None = None) -> InitialModel:
    """The tensors of ``path``, in the order of ``layout_file``, or else by name with numbers in their natural order.

    Raises:
        UserError: not safetensors, a dtype that no layout has, NaN or infinity, or not the given layout.
        OSError: a file cannot be read.
        WireError, DocumentError: a name or a shape that no layout may have.
    """
    with path.open("rb"):
        pass  # so that a missing file is told as one
    try:
        with safe_open(path, framework="numpy") as file:
            specs = {name: _spec(name, file.get_slice(name), path) for name in file.keys()}  # noqa: SIM118
            layout = _layout(specs, layout_file)
            return InitialModel(layout, _vector(layout, file, path))
    except SafetensorError:
        hint = "Save the model with safetensors, for example safetensors.torch.save_file(model.state_dict(), path)."
        raise UserError(f"{path}: not a safetensors file", hint) from None


def _spec(name: str, tensor: object, path: Path) -> TensorSpec:
    dtype = tensor.get_dtype()  # type: ignore[attr-defined]
    if dtype not in _DTYPES:
        raise UserError(
            f"{path}: tensor {name} is {dtype}", "Convert it to float32 or float64 (or int64 for counters)."
        )
    return TensorSpec(name, _DTYPES[dtype], tuple(tensor.get_shape()))  # type: ignore[attr-defined]


def _layout(specs: dict[str, TensorSpec], layout_file: Path | None) -> Layout:
    if layout_file is None:
        ordered = sorted(specs.values(), key=lambda spec: _natural(spec.name))
        return Layout.parse([spec.to_json() for spec in ordered])
    layout = Layout.parse(decode_json(read_bounded(layout_file, MAX_JSON_BYTES).strip()))
    if set(layout.tensors) != set(specs.values()):
        hint = "Names, dtypes and shapes of the layout and of the initial model must be the same."
        raise UserError(f"{layout_file}: not the layout of the initial model", hint)
    return layout


def _vector(layout: Layout, file: object, path: Path) -> NDArray[np.float32]:
    vector = np.empty(layout.elements, dtype="<f4")
    place = 0
    for tensor in layout.tensors:
        values = file.get_tensor(tensor.name)  # type: ignore[attr-defined]
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, and is refused below
            vector[place : place + tensor.elements] = values.reshape(-1)
        place += tensor.elements
    if not np.isfinite(vector).all():
        raise UserError(f"{path}: a tensor holds NaN or infinity", "Start from a model whose numbers are all finite.")
    return vector


def _natural(name: str) -> list[tuple[int, int, str]]:
    """``layer2`` before ``layer10``: apps that number their arrays count on that order."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", name)]
