"""What one site does: train on its own rows, and judge a model on the rows that it held out."""

from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from rand_hie import task

app = ClientApp()


def site_data(context: Context) -> Path:
    """Where this site's rows are: ``data-path`` of the node, or in a simulation the file of its partition."""
    given = context.node_config.get("data-path")
    if given is not None:
        return Path(str(given))
    name = f"site-{int(context.node_config['partition-id']) + 1}.csv"
    folder = Path(str(context.run_config["data-dir"]))
    candidates = [folder / name, Path(__file__).resolve().parents[3] / folder / name]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{name} is not in the data folder: set --run-config 'data-dir=\"/path/to/data/rand_hie\"'")


def _rows(context: Context) -> task.Split:
    return task.split(task.load_table(site_data(context)), int(context.run_config["seed"]))


def _net(message: Message, context: Context) -> torch.nn.Module:
    net = task.make_net(str(context.run_config["model"]))
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return net


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model of this round on the site's rows."""
    torch.set_num_threads(1)
    rows, net, settings = _rows(context).train, _net(message, context), context.run_config
    if settings["private"]:  # a loss or a count of rows would not be protected: neither is told
        task.train_private(net, rows, lr=float(settings["learning-rate"]))
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)
    config = message.content["config"]
    if not isinstance(config, ConfigRecord):
        raise TypeError("config: a ConfigRecord expected")
    loss = task.train(
        net,
        rows,
        epochs=int(settings["local-epochs"]),
        lr=float(settings["learning-rate"]),
        batch=int(settings["batch-size"]),
        seed=int(settings["seed"]) * 1000 + int(config["server-round"]),
    )
    metrics = MetricRecord({"num-examples": len(rows.y), "train-loss": loss})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge the model on the site's held-out persons; where the server asks for it, score every row as well."""
    torch.set_num_threads(1)
    rows, net = _rows(context).held_out, _net(message, context)
    loss, auc = task.evaluate(net, rows)
    reply = RecordDict({"metrics": MetricRecord({"num-examples": len(rows.y), "val-loss": loss, "auc": auc})})
    config = message.content["config"]
    if isinstance(config, ConfigRecord) and config.get("cloister-rows"):
        reply["cloister-rows"] = _row_scores(net, context)
    return Message(reply, reply_to=message)


def _row_scores(net: torch.nn.Module, context: Context) -> ArrayRecord:
    """Every row by its place in the data: its score, and whether it was held out. Cloister keeps this at the site."""
    table = task.load_table(site_data(context))
    held_out = task.is_held_out(table, int(context.run_config["seed"]))
    arrays = {"row": np.arange(len(table.y)), "score": task.chances(net, table), "held-out": held_out.astype(np.uint8)}
    return ArrayRecord({name: Array(values) for name, values in arrays.items()})


@app.query()
def query(message: Message, context: Context) -> Message:
    """Score rows: the probability of five visits or more. ``inputs`` holds one array for each column of ``BOUNDS``."""
    torch.set_num_threads(1)
    inputs = message.content.array_records["inputs"]
    risk = task.score(_net(message), {name: inputs[name].numpy() for name in task.BOUNDS})
    return Message(RecordDict({"scores": ArrayRecord({"risk": Array(risk)})}), reply_to=message)
