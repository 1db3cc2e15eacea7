"""Flower's ``run_simulation`` on Ray: an actor of one CPU for each core, the model kept in each actor, stock FedAvg."""

from __future__ import annotations

import sys
import time

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.simulation.asked import Asked, Laps
from benchmarks.simulation.model import LEARNING_RATE, loss_of, module_of
from benchmarks.simulation.work import norm, read_rows

CLIENT = ClientApp()
_KEPT: dict[str, tuple] = {}


def kept(path: str) -> tuple:
    """What an actor needs for all its sites, prepared once."""
    if path not in _KEPT:
        import torch

        torch.set_num_threads(1)
        asked = Asked.read(path)
        rows = [torch.from_numpy(part) for part in read_rows(asked.rows, asked.work)]
        module = module_of(asked.work.model)
        _KEPT[path] = asked.work, *rows, module, torch.optim.SGD(module.parameters(), LEARNING_RATE)
    return _KEPT[path]


@CLIENT.train()
def train(message: Message, context) -> Message:
    config = message.content["config"]
    work, features, labels, module, optimizer = kept(config["asked"])
    site = config["site"]
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    for low in range(0, work.rows, work.batch):
        batch = slice(low, low + work.batch)
        optimizer.zero_grad()
        loss_of(work.model, module(features[site, batch]), labels[site, batch]).backward()
        optimizer.step()
    records = {"arrays": ArrayRecord(module.state_dict()), "metrics": MetricRecord({"num-examples": work.rows})}
    return Message(RecordDict(records), reply_to=message)


class Drawn(FedAvg):
    """FedAvg over the cohorts that every tool has."""

    def __init__(self, path: str) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.path, self.asked = path, Asked.read(path)

    def configure_train(self, server_round, arrays, config, grid):
        if server_round == 1:
            while len(list(grid.get_node_ids())) < self.asked.work.sites:
                time.sleep(0.05)
            self.laps = Laps()
            self.nodes = list(grid.get_node_ids())
        return [
            Message(
                RecordDict({"arrays": arrays, "config": ConfigRecord({"asked": self.path, "site": site})}),
                dst_node_id=self.nodes[site],
                message_type=MessageType.TRAIN,
            )
            for site in self.asked.cohorts[server_round - 1]
        ]

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.laps.mark()
        return arrays, metrics


def main(path: str) -> None:
    server = ServerApp()

    @server.main()
    def serve(grid, context) -> None:
        strategy = Drawn(path)
        initial = ArrayRecord(module_of(strategy.asked.work.model).state_dict())
        result = strategy.start(grid, initial, num_rounds=strategy.asked.work.rounds, timeout=3600)
        strategy.laps.found(norm(result.arrays.to_numpy_ndarrays())).write(path)

    asked = Asked.read(path)
    started = {"num_cpus": asked.processes, "logging_level": "ERROR", "log_to_driver": False}
    resources = {"num_cpus": 1, "num_gpus": 0.0}
    run_simulation(
        server, CLIENT, asked.work.sites, backend_config={"init_args": started, "client_resources": resources}
    )


if __name__ == "__main__":
    main(sys.argv[1])
