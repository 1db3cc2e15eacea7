"""FedAvg over all workers in a proof-of-concept deployment: provisioned, mutual TLS, a process for each party."""

import json
import sys
from pathlib import Path

import numpy as np
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe import PocEnv

asked = json.loads(Path(sys.argv[1]).read_text())
folder = Path(asked["folder"])
initial = folder / "initial.npy"
np.save(initial, np.random.default_rng(0).random(asked["elements"], dtype=np.float32))
recipe = NumpyFedAvgRecipe(
    name="carried",
    min_clients=asked["workers"],
    num_rounds=asked["rounds"],
    train_script="client.py",
    train_args=str(folder),
    initial_ckpt=str(initial),
)
if asked["task_request_interval_s"] is not None:
    recipe.add_server_config({"server": {"task_request_interval": asked["task_request_interval_s"]}})
patience = {"login_timeout": 120}  # seconds: eight clients that start at once keep the server busy
run = recipe.execute(PocEnv(num_clients=asked["workers"], project_conf_path=asked["project"], extra=patience))
print("result:", run.get_result(clean_up=False))
