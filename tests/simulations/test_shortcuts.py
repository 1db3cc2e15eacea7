"""Shortcuts of a step change nothing but the last bits, and are not taken where they would."""

from __future__ import annotations

import copy
import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from simulations.task import Job
from simulations.tasks.deferred import DeferredLinear
from simulations.tasks.descent import Descent
from simulations.tasks.one_by_one import OneByOne
from simulations.tasks.shortcuts import pool_first, pool_innermost
from tests.simulations.torch_recipes import (
    JOBS,
    PER_ROW,
    Twice,
    data,
    images,
    plainly,
    recipe,
    seeded,
    updates,
)


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
