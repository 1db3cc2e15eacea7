"""A released model is written as its layout says, scalars included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from console.opening import write_safetensors
from trusted.documents.layout import Dtype, Layout, TensorSpec


def test_a_scalar_stays_one(tmp_path: Path) -> None:
    layout = Layout((TensorSpec("scale", Dtype.FLOAT32, ()), TensorSpec("w", Dtype.FLOAT32, (2,))))
    path = tmp_path / "model.safetensors"
    write_safetensors(path, layout, np.arange(3, dtype=np.float32), {}, force=False)
    assert {name: array.shape for name, array in load_file(path).items()} == {"scale": (), "w": (2,)}
