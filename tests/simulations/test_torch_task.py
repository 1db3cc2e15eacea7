"""The fast path of PyTorch tasks against the same training written out plainly."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.site_data import SiteData
from simulations.task import Job
from simulations.tasks.descent import Descent
from simulations.tasks.mapped_rows import MappedRows
from simulations.tasks.stacked import NotStackable, Stacked
from tests.simulations.torch_recipes import (
    BINARY,
    JOBS,
    PER_ROW,
    Mlp,
    Normed,
    Twice,
    data,
    images,
    mlp,
    plainly,
    recipe,
    seeded,
    updates,
)
from trusted.documents.layout import Dtype
from trusted.errors import Reason


@pytest.mark.parametrize(
    ("descent", "settings"),
    [
        (Descent(0.1), {"lr": 0.1}),
        (Descent(0.1, momentum=0.9), {"lr": 0.1, "momentum": 0.9}),
        (Descent(0.05, weight_decay=0.1), {"lr": 0.05, "weight_decay": 0.1}),
        (Descent(0.05, 0.5, 0.1), {"lr": 0.05, "momentum": 0.5, "weight_decay": 0.1}),
    ],
)
@pytest.mark.parametrize("together", [1, 3])
def test_a_site_trains_as_with_torchs_own_optimiser(descent, settings, together):
    given = data()
    task = recipe(descent=descent, shuffle=False, epochs=2, together=together).prepare(given)
    found = updates(task, JOBS)
    for job in JOBS:
        expected = plainly(seeded(mlp), given.rows(job.site), PER_ROW, 8, epochs=2, **settings)
        np.testing.assert_allclose(found[job.site], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("together", [1, 2])
def test_the_proximal_term_pulls_towards_the_given_model(together):
    free, held = (
        recipe(descent=Descent(0.1, proximal=mu), epochs=3, together=together).prepare(data()) for mu in (0, 3)
    )
    assert (np.linalg.norm(updates(held, JOBS[:4]), axis=1) < np.linalg.norm(updates(free, JOBS[:4]), axis=1)).all()


@pytest.mark.parametrize(("factory", "binary"), [(mlp, False), (Mlp, True)])
@pytest.mark.parametrize("together", [2, 5, 16])
def test_sites_of_different_sizes_trained_together_get_what_they_get_alone(factory, binary, together):
    given, loss = data(binary=binary), BINARY if binary else PER_ROW
    alone = updates(recipe(factory, loss, epochs=2).prepare(given), JOBS)
    stacked = updates(recipe(factory, loss, epochs=2, together=together).prepare(given), JOBS)
    assert (np.linalg.norm(stacked - alone, axis=1) <= 1e-4 * np.linalg.norm(alone, axis=1)).all()


@pytest.mark.parametrize("together", [1, 2])
def test_the_given_model_is_left_as_it_is(together):
    task = recipe(together=together).prepare(data())
    model = task.initial()
    for jobs in (JOBS, JOBS[:1]):
        updates(task, jobs, model)
    np.testing.assert_array_equal(model, task.initial())


def test_what_a_site_gets_does_not_depend_on_the_sites_beside_it():
    task = recipe(together=3).prepare(data())
    every = updates(task, JOBS)
    for jobs in ([JOBS[2]], [JOBS[2], JOBS[4]], JOBS[::-1]):
        np.testing.assert_allclose(updates(task, jobs), every[[job.site for job in jobs]], rtol=1e-4, atol=1e-6)


def test_one_site_that_diverges_leaves_its_neighbours_alone():
    given = data(poisons={1: [("noise", lambda rows, rng: {**rows, "x": np.full_like(rows["x"], np.nan)})]})
    task = recipe(together=5).prepare(given)
    out = np.empty((5, task.layout.elements), np.float32)
    trained = task.train(task.initial(), JOBS, out)
    assert [one.failure for one in trained] == [None, Reason.APP_REPLY, None, None, None]
    assert np.isfinite(out[[0, 2, 3, 4]]).all()


def test_the_order_of_rows_follows_from_seed_round_and_site():
    task, again = recipe().prepare(data()), recipe().prepare(data())
    np.testing.assert_array_equal(updates(task, JOBS), updates(again, JOBS[::-1])[::-1])
    assert not np.array_equal(updates(task, [Job(0, 1)]), updates(task, [Job(0, 2)]))
    assert not np.array_equal(updates(task, [Job(0, 1)]), updates(recipe().prepare(data(seed=4)), [Job(0, 1)]))


def test_poisoned_sites_train_on_what_the_behaviour_made_of_their_rows():
    flipped = data(poisons={2: [("flip", lambda rows, rng: {**rows, "y": 2 - rows["y"]})]})
    clean, bad = recipe().prepare(data()), recipe().prepare(flipped)
    same = [np.array_equal(*pair) for pair in zip(updates(clean, JOBS), updates(bad, JOBS), strict=True)]
    assert same == [True, True, False, True, True]


@pytest.mark.parametrize(("setting", "most"), [("channels_last", 1e-3), ("bfloat16", 0.1)])
def test_an_opt_in_differs_by_no_more_than_it_says(setting, most):
    given = data((40, 24), (3, 8, 8))
    plain, other = (
        updates(recipe(images).prepare(given), JOBS[:2]),
        updates(recipe(images, **{setting: True}).prepare(given), JOBS[:2]),
    )
    error = np.linalg.norm(other - plain, axis=1) / np.linalg.norm(plain, axis=1)
    assert (error <= most).all()


def resident_kib(path: Path) -> int:
    """Of the mappings of a file in this process."""
    blocks = Path("/proc/self/smaps").read_text().split("\nVmFlags")
    found = (re.search(r"\nRss: +([0-9]+) kB", block) for block in blocks if str(path) in block)
    return sum(int(match[1]) for match in found if match)


@pytest.mark.parametrize("together", [1, 2])
def test_rows_of_a_mapped_file_take_memory_while_their_site_trains(tmp_path, together):
    sizes, rng = (4096, 4096, 4096), np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((sum(sizes), 64), dtype=np.float32))
    labels, partition = rng.integers(0, 3, sum(sizes)), Partition.of(np.split(np.arange(sum(sizes)), 3))
    module, found = (lambda: nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))), {}
    for mode in ("r", None):
        rows = np.load(tmp_path / "x.npy", mmap_mode=mode)
        given = SiteData(Dataset({"x": rows, "y": labels}, "y"), partition, None, 3)
        task = recipe(module, batch=512, together=together).prepare(given)
        found[mode] = updates(task, [Job(0, 1), Job(1, 1)])
        if mode == "r":
            assert resident_kib(tmp_path / "x.npy") < 200  # of 2,048 that were read
    np.testing.assert_array_equal(found["r"], found[None])


def test_rows_that_somebody_may_have_written_to_stay(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4096, 64), np.float32))
    rows = np.load(tmp_path / "x.npy", mmap_mode="c")
    assert MappedRows.of(rows) is None
    assert MappedRows.of(np.load(tmp_path / "x.npy", mmap_mode="r")[:, 3]) is None
    assert MappedRows.of(np.zeros(3)) is None


def test_buffers_and_whole_numbers_travel_too():
    given = data((20, 12))
    task = recipe(Normed).prepare(given)
    kinds = {spec.name: spec.dtype for spec in task.layout.tensors}
    assert kinds["norm.num_batches_tracked"] is Dtype.INT64
    start = [spec.name for spec in task.layout.tensors].index("norm.num_batches_tracked")
    place = sum(spec.elements for spec in task.layout.tensors[:start])
    assert updates(task, JOBS[:2])[:, place].tolist() == [3, 2]
    np.testing.assert_array_equal(updates(task, JOBS[:2]), updates(task, JOBS[:2]))


def test_a_pickled_task_gives_the_same_bits():
    for settings in ({}, {"together": 2}):
        task = recipe(**settings).prepare(data())
        again = pickle.loads(pickle.dumps(task))
        np.testing.assert_array_equal(updates(task, JOBS), updates(again, JOBS))
        np.testing.assert_array_equal(task.initial(), again.initial())


def test_a_model_is_judged_on_rows_that_no_site_has():
    task = recipe(descent=Descent(0.5), epochs=30).prepare(data((20,)))
    model = task.initial()
    before = task.evaluate(model)
    after = task.evaluate(model + updates(task, [Job(0, 1)])[0])
    assert set(before) == {"loss", "accuracy"}
    assert after["accuracy"] > before["accuracy"]


def test_rows_that_lie_in_the_sites_order_are_not_copied():
    columns = {"x": np.zeros((6, 5), np.float32), "y": np.zeros(6, np.int64)}
    partition = Partition.of([np.arange(4), np.arange(4, 6)])
    task = recipe().prepare(SiteData(Dataset(columns, "y"), partition))
    assert np.shares_memory(task._rows.features.numpy(), columns["x"])


@pytest.mark.parametrize("factory", [images, Normed, Twice])
def test_only_linear_layers_and_functions_of_elements_are_stacked(factory):
    with pytest.raises(NotStackable):
        Stacked.of(factory())
    with pytest.raises(ValueError, match="together"):
        recipe(factory, together=4).prepare(data((20,), (3, 8, 8) if factory is images else (5,)))


def test_without_a_number_the_faster_way_is_measured_once():
    task = recipe(together=None).prepare(data())
    assert task.together in (1, 4)
    assert recipe(together=None).prepare(data()).together == task.together


@pytest.mark.parametrize(
    "settings", [{"batch": 0}, {"epochs": 0}, {"together": 0}, {"together": 65}], ids=lambda item: next(iter(item))
)
def test_settings_out_of_bounds_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        recipe(**settings)


@pytest.mark.parametrize(
    "settings", [{"learning_rate": 0.0}, {"momentum": -0.1}, {"weight_decay": -1.0}, {"proximal": -1.0}]
)
def test_a_descent_out_of_bounds_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Descent(**{"learning_rate": 0.1, **settings})


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="'z'"):
        recipe(features=("z",)).prepare(data())
    with pytest.raises(ValueError, match="label"):
        recipe().prepare(SiteData(Dataset({"x": np.zeros((3, 5))}), Partition.of([np.arange(3)])))


def test_half_precision_weights_are_refused():
    with pytest.raises(ValueError, match="float16"):
        recipe(lambda: mlp().half()).prepare(data())
