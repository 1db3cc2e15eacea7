"""The fast path of PyTorch tasks against the same training written out plainly."""

from __future__ import annotations

import copy
import functools
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.site_data import SiteData
from simulations.task import Job
from simulations.tasks.deferred import DeferredLinear
from simulations.tasks.descent import Descent
from simulations.tasks.mapped_rows import MappedRows
from simulations.tasks.one_by_one import OneByOne
from simulations.tasks.shortcuts import pool_first, pool_innermost
from simulations.tasks.stacked import NotStackable, Stacked
from simulations.tasks.torch import TorchRecipe, TorchTask
from trusted.documents.layout import Dtype
from trusted.errors import Reason

PER_ROW = functools.partial(F.cross_entropy, reduction="none")
BINARY = functools.partial(F.binary_cross_entropy_with_logits, reduction="none")
SIZES = (23, 7, 40, 16, 1)


class Mlp(nn.Module):
    """With functions and a squeeze, as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.first(rows))).squeeze(-1)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 512), nn.ReLU(), nn.Linear(512, 3)
    )


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.norm(rows)))


class Twice(nn.Module):
    """A layer large enough to be deferred, used twice in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.last = nn.Linear(256, 256), nn.Linear(256, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.last(self.wide(torch.tanh(self.wide(rows))))


def data(sizes=SIZES, shape=(5,), *, binary=False, poisons=None, seed=3) -> SiteData:
    rng = np.random.default_rng(0)
    rows = sum(sizes)
    labels = rng.integers(0, 2 if binary else 3, rows)
    columns = {
        "x": rng.standard_normal((rows, *shape), dtype=np.float32),
        "y": labels.astype(np.float32 if binary else np.int64),
    }
    order = rng.permutation(rows)
    partition = Partition.of(np.split(order, np.cumsum(sizes)[:-1]))
    held_out = Dataset({name: column[:20] for name, column in columns.items()}, "y")
    return SiteData(Dataset(columns, "y"), partition, held_out, seed, poisons or {})


def recipe(module=mlp, loss=PER_ROW, **settings) -> TorchRecipe:
    settings = {"batch": 8, "descent": Descent(0.1), "together": 1, **settings}
    return TorchRecipe(module, loss, **settings)


def updates(task: TorchTask, jobs: list[Job], model=None) -> np.ndarray:
    out = np.empty((len(jobs), task.layout.elements), np.float32)
    assert all(trained.failure is None for trained in task.train(task.initial() if model is None else model, jobs, out))
    return out


def plainly(module: nn.Module, rows, loss, batch, epochs=1, **settings) -> np.ndarray:
    """``torch.optim.SGD`` over the rows as they lie."""
    trained = copy.deepcopy(module)
    optimizer = torch.optim.SGD(trained.parameters(), **settings)
    for _ in range(epochs):
        for low in range(0, len(rows["x"]), batch):
            x, y = (torch.from_numpy(np.asarray(rows[name][low : low + batch])) for name in "xy")
            optimizer.zero_grad()
            loss(trained(x), y).mean().backward()
            optimizer.step()
    pairs = zip(trained.state_dict().values(), module.state_dict().values(), strict=True)
    return np.concatenate([(after - before).numpy().ravel() for after, before in pairs])


def seeded(factory, seed=3) -> nn.Module:
    torch.manual_seed(seed)
    return factory()


JOBS = [Job(site, 1) for site in range(len(SIZES))]


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


def test_large_layers_step_in_their_backward_pass_in_bfloat16_too():
    task = recipe(images, bfloat16=True).prepare(data((20, 12), (3, 8, 8)))
    assert "forward" in vars(task._one.module[3])


def test_large_layers_step_in_their_backward_pass_and_nothing_changes():
    given = data((20, 12), (3, 8, 8))
    task = recipe(images, shuffle=False).prepare(given)
    assert "forward" in vars(task._one.module[3])
    for job in JOBS[:2]:
        expected = plainly(seeded(images), given.rows(job.site), PER_ROW, 8, lr=0.1)
        found = updates(task, [job])[0]
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("batch", [3, 8, 40, 200])  # 112 rows are kept: many steps, a part, and more than fit
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_whose_steps_are_written_late_takes_the_same_steps(batch, bias):
    def wide() -> nn.Module:
        return nn.Sequential(nn.Linear(144, 512, bias=bias), nn.Tanh(), nn.Linear(512, 3))

    given = data((200, 64), (144,))
    task = recipe(wide, shuffle=False, batch=batch, epochs=2).prepare(given)
    (layer,) = task._one._deferred
    for job in JOBS[:2]:
        steps = layer.steps
        found = updates(task, [job])[0]
        assert layer.steps - steps == 2 * math.ceil((200, 64)[job.site] / batch)
        expected = plainly(seeded(wide), given.rows(job.site), PER_ROW, batch, epochs=2, lr=0.1)
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_a_layer_of_double_precision_is_deferred_in_it():
    layer = nn.Linear(144, 512).double()
    deferred, plain = DeferredLinear(layer, 0.1), copy.deepcopy(layer)
    rows = torch.randn(40, 144, dtype=torch.float64)
    for part in rows.split(8):
        deferred(part).square().sum().backward()
        plain.zero_grad()
        plain(part).square().sum().backward()
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter -= 0.1 * parameter.grad
    torch.testing.assert_close(deferred(rows), plain(rows), rtol=1e-8, atol=1e-9)
    deferred.settle()
    torch.testing.assert_close(layer.weight, plain.weight, rtol=1e-8, atol=1e-9)


class Peeking(nn.Module):
    """Looks at the weight of a large layer, besides using it: before or after that."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first, self.wide, self.last = first, nn.Linear(256, 256), nn.Linear(256, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        size = self.size if self.first else None
        outputs = self.last(self.wide(rows))
        return outputs * (size or self.size)

    @property
    def size(self) -> float:
        return float(self.wide.weight.detach().square().sum()) / 100


@pytest.mark.parametrize("batch", [8, 200])
@pytest.mark.parametrize("first", [True, False])
def test_a_layer_whose_weight_is_read_elsewhere_is_not_deferred(first, batch):
    given = data((250, 12), (256,))
    task = recipe(functools.partial(Peeking, first=first), shuffle=False, batch=batch).prepare(given)
    assert not task._one._deferred
    expected = plainly(seeded(functools.partial(Peeking, first=first)), given.rows(0), PER_ROW, batch, lr=0.1)
    np.testing.assert_allclose(updates(task, [Job(0, 1)])[0], expected, rtol=1e-4, atol=1e-6)


def test_a_layer_that_is_used_twice_is_not_deferred():
    given = data((20, 12), (256,))
    task = recipe(Twice, shuffle=False).prepare(given)
    assert "forward" not in vars(task._one.module.wide)
    np.testing.assert_allclose(
        updates(task, [Job(0, 1)])[0], plainly(seeded(Twice), given.rows(0), PER_ROW, 8, lr=0.1), rtol=1e-4, atol=1e-6
    )


def pooled() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, padding=1), nn.Flatten(), nn.Linear(4 * 16, 3))


def test_a_maximum_over_relus_is_pooled_first_to_the_same_bits():
    given = data((20, 12), (3, 8, 8))
    task = recipe(pooled).prepare(given)
    assert [type(part) for part in task._one.module[1:3]] == [nn.MaxPool2d, nn.ReLU]
    plain = OneByOne(seeded(pooled), loss=PER_ROW, descent=Descent(0.1), batch=8, channels_last=False, bfloat16=False)
    model, out = torch.from_numpy(task.initial()), torch.empty(2, task.layout.elements)
    plain.train(model, [task._site(job) for job in JOBS[:2]], list(out))
    np.testing.assert_array_equal(updates(task, JOBS[:2]), out.numpy())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 1},
        {"kernel_size": (3, 2), "padding": (1, 0)},
        {"kernel_size": 3, "ceil_mode": True},
        {"dilation": 2},
    ],
    ids=lambda settings: next(iter(settings), "plain"),
)
def test_maxima_over_many_channels_at_once_are_the_same_bits(settings):
    pool = nn.MaxPool2d(**{"kernel_size": 2, **settings})
    module = nn.Sequential(pool)
    image = torch.randint(-3, 3, (4, 16, 11, 9)).float().requires_grad_()  # many ties: the first of them counts
    before = module(image)
    scale = torch.rand_like(before)
    (expected,) = torch.autograd.grad((before * scale).sum(), image)
    undo = pool_innermost(module)
    assert undo is not None
    after = module(image)
    (found,) = torch.autograd.grad((after * scale).sum(), image)
    assert torch.equal(before, after)
    assert torch.equal(expected, found)
    assert found.is_contiguous()
    few = torch.rand(2, 3, 11, 9)
    assert torch.equal(module(few), nn.functional.max_pool2d(few, **{"kernel_size": 2, **settings}))
    assert torch.equal(module(image[0]), before[0])
    undo()
    assert "forward" not in vars(pool)


def test_a_flattened_image_gets_its_gradient_back_with_its_channels_innermost():
    given = data((20, 12), (3, 8, 8))
    assert "forward" not in vars(recipe(pooled).prepare(given)._one.module[3])
    flat = recipe(pooled, channels_last=True).prepare(given)._one.module[3]
    assert "forward" in vars(flat)
    image = torch.rand(2, 4, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(flat(image).square().sum(), image)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(gradient, 2 * image)
    assert torch.equal(flat(image), image.flatten(1))
    assert flat(torch.rand(2, 3)).shape == (2, 3)


def test_what_somebody_listens_to_stays_where_it_is():
    module = pooled()
    module[1].register_forward_hook(lambda *_: None)
    assert pool_first(module) is None
    assert type(module[1]) is nn.ReLU


class Halves(nn.Module):
    """Uses the parts of a sequence one by one, with something of its own between them."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.ReLU(), nn.MaxPool1d(2))
        self.last = nn.Linear(4, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        first = self.parts[0](rows)
        return self.last(self.parts[1](-torch.nn.functional.interpolate(first[:, None], 8)).squeeze(1))


def test_a_shortcut_that_changes_a_step_is_not_taken():
    assert pool_first(Halves()) is not None  # it is one that is tried
    task = recipe(Halves).prepare(data((20, 12), (8,)))
    assert type(task._one.module.parts[0]) is nn.ReLU


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
