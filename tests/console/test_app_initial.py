"""``cloister app initial``: the app's own server runs until its strategy starts, and what it starts from is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.console.test_apps import CLIENT, write_app

SERVER = """\
import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
app = ServerApp()
@app.main()
def main(grid, context):
    {before}
    first = np.random.rand(int(context.run_config["width"])).astype(np.float32)
    arrays = ArrayRecord({{"w": Array(first), "b": Array(np.zeros(1, np.float32))}})
    try:
        FedAvg().start(grid=grid, initial_arrays=arrays, num_rounds=3)
    except Exception:
        print("an app may catch what it likes")
    raise RuntimeError("never reached")
"""
CONFIG = "width = 3"


def app_of(folder: Path, server: str) -> Path:
    return write_app(folder / "app", client=CLIENT, server=server, config=CONFIG)


def initial(app: Path, out: Path, *options: str) -> dict[str, Any]:
    """What the command says, in a process of its own: it forks."""
    command = [sys.executable, "-c", "from console.main import main; main()", "app", "initial", str(app)]
    done = subprocess.run([*command, "--out", str(out), "--json", *options], capture_output=True, check=False)
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def test_what_a_strategy_starts_from_is_written_the_same_for_the_same_seed(tmp_path: Path) -> None:
    app, out = app_of(tmp_path, SERVER.format(before="pass")), tmp_path / "initial.safetensors"
    made = [initial(app, out, "--seed", seed, "--force")["data"] for seed in ("7", "7", "8")]
    digests = [data["initial_sha256"] for data in made]
    assert digests[0] == digests[1] != digests[2]
    assert made[0]["elements"] == 4
    arrays = load_file(out)
    np.testing.assert_array_equal(arrays["w"], np.random.RandomState(8).rand(3).astype(np.float32))
    assert arrays["b"].shape == (1,)


def test_the_run_config_of_the_plan_goes_before_the_apps_own(tmp_path: Path) -> None:
    app, out = app_of(tmp_path, SERVER.format(before="pass")), tmp_path / "initial.safetensors"
    assert initial(app, out, "--config", "width=5")["data"]["elements"] == 6


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("raise KeyError('what it says of itself')", "raised KeyError"),
        ("return", "started no strategy"),
        ("grid.get_node_ids()", "asks its nodes before a strategy starts"),
        ("open('/etc/passwd').read()", "raised PermissionError"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "raised OSError"),
    ],
)
def test_a_server_that_does_not_come_to_a_strategy_is_told_why(tmp_path: Path, before: str, says: str) -> None:
    app, out = app_of(tmp_path, SERVER.format(before=before)), tmp_path / "initial.safetensors"
    assert says in initial(app, out)["error"]["message"]
    assert not out.exists()
