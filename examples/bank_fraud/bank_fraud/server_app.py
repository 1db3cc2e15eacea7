"""Plain federated averaging, for ``flwr run``. Cloister folds with the plan's rule and does not run this file."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from bank_fraud import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run ``num-server-rounds`` rounds over all banks and print the held-out average precision of the last."""
    banks = int(context.run_config["min-sites"])
    strategy = FedAvg(min_train_nodes=banks, min_evaluate_nodes=banks, min_available_nodes=banks)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(task.initial_arrays(int(context.run_config["seed"]))),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    last = result.evaluate_metrics_clientapp[max(result.evaluate_metrics_clientapp)]
    print(f"held-out average precision, averaged over {banks} banks: {float(last['average-precision']):.3f}")
