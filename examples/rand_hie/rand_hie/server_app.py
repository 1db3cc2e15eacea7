"""Plain federated averaging, for ``flwr run``. Cloister folds with its own rule and does not run this file."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from rand_hie import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run ``num-server-rounds`` rounds over all sites and print the held-out AUC of the last."""
    sites = int(context.run_config["min-sites"])
    strategy = FedAvg(min_train_nodes=sites, min_evaluate_nodes=sites, min_available_nodes=sites)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(
            task.initial_arrays(int(context.run_config["seed"]), str(context.run_config["model"]))
        ),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    last = result.evaluate_metrics_clientapp[max(result.evaluate_metrics_clientapp)]
    print(f"held-out AUC, averaged over {sites} sites: {float(last['auc']):.3f}")
