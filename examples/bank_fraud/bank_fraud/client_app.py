"""What one bank does: train on its own payments, and judge a model on the later ones that it held out."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from bank_fraud import task

app = ClientApp()


def bank_data(context: Context) -> Path:
    """Where this bank's payments are: ``data-path`` of the node, or in a simulation the folder of its partition."""
    given = context.node_config.get("data-path")
    if given is not None:
        return Path(str(given))
    return Path(str(context.run_config["data-dir"])) / f"bank-{int(context.node_config['partition-id']) + 1}"


def _split(context: Context) -> task.Split:
    torch.set_num_threads(1)
    return task.load_split(bank_data(context), int(context.run_config["held-out-from-day"]))


def _net(message: Message) -> task.Net:
    net = task.Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return net


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model of this round on the bank's earlier payments."""
    rows, net, settings = _split(context).train, _net(message), context.run_config
    config = message.content["config"]
    if not isinstance(config, ConfigRecord):
        raise TypeError("config: a ConfigRecord expected")
    loss = task.train(
        net,
        rows,
        epochs=int(settings["local-epochs"]),
        lr=float(settings["learning-rate"]),
        batch=int(settings["batch-size"]),
        weight=float(settings["fraud-weight"]),
        seed=int(settings["seed"]) * 1000 + int(config["server-round"]),
    )
    metrics = MetricRecord({"num-examples": len(rows.y), "train-loss": loss})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge the model on the bank's later payments."""
    rows = _split(context).held_out
    loss, precision, recall = task.evaluate(_net(message), rows)
    metrics = {"val-loss": loss, "average-precision": precision, "recall-at-fpr-0.005": recall}
    record = MetricRecord({"num-examples": len(rows.y), **metrics})
    return Message(RecordDict({"metrics": record}), reply_to=message)
