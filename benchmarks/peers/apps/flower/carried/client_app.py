"""A worker adds its own number, from 1, to every parameter: never equal content, so nothing is deduplicated."""

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """The model plus this worker's number."""
    worker = int(context.node_config["partition-id"]) + 1
    model = {name: array.numpy() for name, array in message.content["arrays"].items()}
    ends = [float(next(iter(model.values())).flat[0]), float(list(model.values())[-1].flat[-1])]
    line = {"worker": worker, "round": int(message.content["config"]["server-round"]) - 1, "ends": ends}
    with (Path(str(context.run_config["folder"])) / f"worker-{worker}.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    updated = ArrayRecord({name: Array(values + np.float32(worker)) for name, values in model.items()})
    return Message(RecordDict({"arrays": updated, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
