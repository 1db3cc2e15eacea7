"""The example app outside of all this: its model, its scores, its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from trusted.documents.layout import Layout
from trusted.scoring.terms import Declaration
from worker.trainer import join_arrays

ROOT = Path(__file__).parents[2]
EXAMPLE, DATA = ROOT / "examples" / "rand_hie", ROOT / "data" / "rand_hie" / "site-1.csv"


def plain_scores(declared: Declaration, values: np.ndarray) -> tuple[Layout, np.ndarray, np.ndarray]:
    """The example's layout, initial model and scores, computed in a process without any of this."""
    code = """
import sys, json, numpy as np, torch
sys.path.insert(0, sys.argv[1])
from rand_hie import task
torch.set_num_threads(1)
columns, rows = json.loads(sys.argv[2])
arrays = task.initial_arrays(7)
net = task.Net(); net.load_state_dict(arrays)
raw = {name: np.array([row[place] for row in rows]) for place, name in enumerate(columns)}
scores = task.score(net, raw)
tensors = [(n, a.tolist(), str(a.numpy().dtype), list(a.shape)) for n, a in arrays.items()]
print(json.dumps([tensors, scores.astype(float).tolist()]))
"""
    asked = json.dumps([list(declared.inputs), values.tolist()])
    done = subprocess.run([sys.executable, "-c", code, str(EXAMPLE), asked], capture_output=True, check=True)
    tensors, scores = json.loads(done.stdout)
    layout = Layout.parse([{"name": name, "dtype": dtype, "shape": shape} for name, _, dtype, shape in tensors])
    arrays = {name: np.array(numbers, dtype) for name, numbers, dtype, _ in tensors}
    return layout, join_arrays(layout, arrays), np.array(scores)[:, None]
