"""A worker adds its own number, from 1, to every parameter; nothing is trained. Runs in NVFlare's environment."""

import json
import sys
from pathlib import Path

import numpy as np
import nvflare.client as flare
from nvflare.app_common.np.constants import NPConstants

flare.init()
worker = int(flare.system_info()["site_name"].rpartition("-")[2])
with (Path(sys.argv[1]) / f"worker-{worker}.jsonl").open("a") as log:
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        model = received.params[NPConstants.NUMPY_KEY]
        line = {
            "worker": worker,
            "round": received.current_round,
            "ends": [float(model.flat[0]), float(model.flat[-1])],
        }
        log.write(json.dumps(line) + "\n")
        log.flush()
        updated = {NPConstants.NUMPY_KEY: model + np.float32(worker)}
        flare.send(
            flare.FLModel(params=updated, params_type=flare.ParamsType.FULL, current_round=received.current_round)
        )
