"""pfl-research's simulated backend, a process for each core through torchrun, as its documentation has it.

Its first round judges every site before and after training, which cannot be switched off: medians leave it out.
"""

from __future__ import annotations

import os
import sys
from types import MethodType

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel

from benchmarks.simulation.asked import Asked, Laps
from benchmarks.simulation.model import LEARNING_RATE, loss_of, module_of
from benchmarks.simulation.work import norm, read_rows

NEVER = 10**9


class Marks(TrainingProcessCallback):
    def on_train_begin(self, *, model):
        self.laps = Laps()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.laps.mark()
        return False, Metrics()


def main(path: str) -> None:
    torch.set_num_threads(1)
    asked = Asked.read(path)
    work = asked.work
    features, labels = (torch.from_numpy(rows) for rows in read_rows(asked.rows, work))
    module = module_of(work.model)

    def loss(self, rows, marks, eval=False):
        return loss_of(work.model, self(rows), marks)

    def metrics(self, rows, marks, eval=True):
        return {"loss": Weighted(float(loss(self, rows, marks).detach()) * len(rows), len(rows))}

    module.loss, module.metrics = MethodType(loss, module), MethodType(metrics, module)
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), 1.0),
    )
    spare = list(asked.cohorts[-1])  # it draws one cohort more than it uses
    order = iter([*np.concatenate(asked.cohorts).tolist(), *spare])
    rows = FederatedDataset.from_slices(
        {site: (features[site], labels[site]) for site in range(work.sites)}, lambda: int(next(order))
    )
    marks = Marks()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=NEVER,
            train_cohort_size=work.cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=rows, val_data=rows, postprocessors=[WeightByUser()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_learning_rate=LEARNING_RATE, local_num_epochs=1, local_batch_size=work.batch
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[marks],
        send_metrics_to_platform=False,
    )
    if int(os.environ.get("RANK", 0)) == 0:
        marks.laps.found(norm([part.detach().numpy() for part in module.parameters()])).write(path)


if __name__ == "__main__":
    main(sys.argv[1])
