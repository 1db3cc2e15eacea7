"""FedAvg over all workers. The times are those at which the strategy hands each aggregated model to be evaluated."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, then write when each ended."""
    config = context.run_config
    size, workers = int(config["elements"]) // int(config["tensors"]), int(config["workers"])
    draw = np.random.default_rng(0)
    initial = ArrayRecord(
        {f"layer{i}": Array(draw.random(size, dtype=np.float32)) for i in range(int(config["tensors"]))}
    )
    marks: list[float] = []
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=workers, min_available_nodes=workers)
    strategy.start(
        grid,
        initial,
        num_rounds=int(config["rounds"]),
        timeout=900,
        evaluate_fn=lambda number, arrays: marks.append(time.monotonic()),
    )
    written = Path(str(config["folder"])) / "marks.part"
    written.write_text(json.dumps(marks))
    written.rename(written.with_name("marks.json"))
