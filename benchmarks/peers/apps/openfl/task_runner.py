"""A worker adds its own number, from 1, to every parameter; nothing is trained. Runs in OpenFL's environment."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from openfl.federated.task.runner import TaskRunner
from openfl.utilities import TensorKey

ELEMENTS = int(os.environ["CARRIED_ELEMENTS"])


class Carrier(TaskRunner):
    """One tensor, without optimiser or data."""

    def __init__(self, data_loader: Any, **kwargs: Any) -> None:
        super().__init__(data_loader, **kwargs)
        self._weights = {"w0": np.random.default_rng(0).random(ELEMENTS, dtype=np.float32)}

    def train_task(self, col_name: str, round_num: int, input_tensor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The model plus this worker's number."""
        worker = int(col_name.rpartition("-")[2])
        model = input_tensor_dict["w0"]
        line = {"worker": worker, "round": round_num, "ends": [float(model.flat[0]), float(model.flat[-1])]}
        with (Path(os.environ["CARRIED_FOLDER"]) / f"worker-{worker}.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        self._weights = {"w0": model + np.float32(worker)}
        given = {TensorKey("w0", col_name, round_num, False, ("trained",)): self._weights["w0"]}
        given[TensorKey("loss", col_name, round_num, True, ("metric",))] = np.array(0.0)
        return given, {}

    def validate_task(self, col_name: str, round_num: int, input_tensor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A metric: without one, OpenFL 1.9 does not end a round that it keeps a checkpoint of."""
        metric = TensorKey("acc", col_name, round_num, True, ("metric", "validate_agg"))
        return {metric: np.array(float(round_num))}, {}

    def get_required_tensorkeys_for_function(self, func_name: str, **kwargs: Any) -> list[Any]:
        """The whole model."""
        return [TensorKey(name, "GLOBAL", 0, False, ("model",)) for name in self._weights]

    def get_tensor_dict(self, with_opt_vars: bool = False) -> dict[str, Any]:
        """The model."""
        return dict(self._weights)

    def set_tensor_dict(self, tensor_dict: dict[str, Any], with_opt_vars: bool = False) -> None:
        """Another model."""
        self._weights = dict(tensor_dict)

    def get_train_data_size(self) -> int:
        """Every worker weighs the same."""
        return 1

    def get_valid_data_size(self) -> int:
        """Every worker weighs the same."""
        return 1

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """There is no optimiser, no file of weights and no batch."""

    train_batches = validate = reset_opt_vars = initialize_globals = set_optimizer_treatment = _nothing
    initialize_tensorkeys_for_functions = load_native = save_native = _nothing
