"""The Ray engine on a cluster of two nodes of this machine, and what it says where Ray is not installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from simulations.dataset import Dataset
from simulations.engines.in_process import InProcess
from simulations.engines.ray import Ray
from simulations.engines.sharing import share_size
from simulations.partition import Partition
from simulations.simulation import Simulation
from simulations.site_data import SiteData
from simulations.task import Job, Trained
from simulations.tasks.descent import Descent
from simulations.tasks.torch import TorchRecipe
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.errors import Reason

HERE = importlib.util.find_spec("ray") is not None
SITES = 6


class Counting:
    """Every site answers how often it was asked before; ``together`` is what its class says."""

    keeps_state = True
    together = 1
    layout = Layout((TensorSpec("w", Dtype.FLOAT32, (2,)),))

    def __init__(self) -> None:
        self.asked: dict[int, int] = {}

    def initial(self):
        return np.zeros(2, np.float32)

    def train(self, model, jobs, out):
        said = []
        for job, row in zip(jobs, out, strict=True):
            row[:] = (self.asked.get(job.site, 0), job.site)
            self.asked[job.site] = self.asked.get(job.site, 0) + 1
            failure = Reason.APP_FAILED if job.site == 5 else None
            said.append(Trained(10 + job.site, {"loss": 0.5}, 0.25, failure))
        return said

    def evaluate(self, model):
        return {}


class Failing(Counting):
    def train(self, model, jobs, out):
        raise ValueError("the rows are not as expected")


def torch_parts(together: int):
    """Dataset, partition and recipe."""
    from torch import nn
    from torch.nn import functional

    def module():
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def loss(outputs, labels):
        return functional.cross_entropy(outputs, labels, reduction="none")

    rng = np.random.default_rng(0)
    columns = {"x": rng.standard_normal((120, 8), dtype=np.float32), "y": rng.integers(0, 3, 120)}
    partition = Partition.of(np.split(rng.permutation(120), SITES))
    recipe = TorchRecipe(module, loss, batch=8, descent=Descent(0.1), together=together)
    return Dataset(columns, "y"), partition, recipe


def torch_task(together: int):
    dataset, partition, recipe = torch_parts(together)
    return recipe.prepare(SiteData(dataset, partition, seed=1))


def rounds(engine, task, count=3):
    """The updates of ``count`` rounds, each from the mean of the one before, and what was said in the last."""
    model, found = task.initial(), []
    with engine.open(task, most_jobs=SITES, holds_all=False) as crew:
        for number in range(1, 1 + count):
            answers = crew.train(model, [Job(site, number) for site in range(SITES)])
            taken = [(done.update.copy(), done.trained) for done in answers]
            found.append(np.stack([update for update, _ in taken]))
            model = model + found[-1].mean(0)
    return np.stack(found), [said for _, said in taken]


@pytest.fixture(scope="module")
def cluster():
    if not HERE:
        pytest.skip("Ray is not installed (pip install 'cloister[simulate-ray]')")
    import os

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 3])
def test_two_nodes_give_the_bits_of_one_process(cluster, together):
    alone, said = rounds(InProcess(), torch_task(together))
    spread, heard = rounds(Ray(cluster, window_bytes=0), torch_task(together))
    assert [(one.num_examples, one.metrics) for one in heard] == [(one.num_examples, one.metrics) for one in said]
    if together == 1:
        np.testing.assert_array_equal(spread, alone)
    np.testing.assert_allclose(spread, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_whole_simulation_is_the_same_on_ray(cluster):
    dataset, partition, recipe = torch_parts(1)
    results = [
        Simulation(recipe, dataset, partition, rounds=3, cohort=4, seed=1, engine=engine).run()
        for engine in ("in-process", "pool", Ray(cluster))
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result.model, results[0].model)
        assert [row.drawn for row in result.rounds] == [row.drawn for row in results[0].rounds]


@pytest.mark.slow
def test_a_sites_state_stays_with_its_site(cluster):
    updates, said = rounds(Ray(cluster), Counting())
    assert updates[:, :, 0].tolist() == [[0.0] * SITES, [1.0] * SITES, [2.0] * SITES]
    assert updates[0, :, 1].tolist() == list(range(SITES))
    assert [one.failure for one in said] == [None] * 5 + [Reason.APP_FAILED]
    assert said[2] == Trained(12, {"loss": 0.5}, 0.25)


@pytest.mark.slow
def test_what_a_task_raises_is_raised_here(cluster):
    with pytest.raises(Exception, match="the rows are not as expected"):
        rounds(Ray(cluster), Failing())


@pytest.mark.slow
def test_a_cluster_without_room_is_one_sentence(cluster):
    with (
        pytest.raises(ValueError, match="no machine of the cluster has 7 CPUs"),
        Ray(cluster, cpus=7).open(Counting(), most_jobs=SITES, holds_all=False),
    ):
        pass


@pytest.mark.skipif(HERE, reason="Ray is installed")
def test_without_ray_the_error_says_what_to_install():
    with (
        pytest.raises(ValueError, match="ray is not installed") as caught,
        Ray().open(Counting(), most_jobs=1, holds_all=False),
    ):
        pass
    assert "simulate-ray" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("jobs", "processes", "together", "size"),
    [(50, 2, 16, 13), (50, 2, 1, 1), (50, 2, 64, 25), (1, 4, 8, 1), (0, 2, 8, 1), (5, 2, 2, 2), (16, 2, 8, 8)],
)
def test_shares_are_as_many_for_each_process(jobs, processes, together, size):
    assert share_size(jobs, processes, together) == size
