"""DP-SGD for apps: what a step does to gradients, whose data a unit is, and who counts the steps. Real Opacus."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn
from torch.utils.data import TensorDataset

from trusted.documents.terms import DpSgd, Unit
from trusted.errors import AppError, Reason
from worker import dp_sgd

SILENT = 0.1  # the least noise that a plan may ask for


@pytest.fixture(autouse=True)
def nobodys() -> Iterator[None]:
    yield
    dp_sgd.set_terms(None)


def terms(**changes: object) -> DpSgd:
    given = {
        "unit": Unit.RECORD,
        "max_grad_norm": 1.0,
        "noise_multiplier": SILENT,
        "sample_rate": 1.0,
        "max_steps": 3,
    }
    return DpSgd(**given | changes)  # type: ignore[arg-type]


def line(inputs: int) -> nn.Linear:
    net = nn.Linear(inputs, 1, bias=False)
    nn.init.zeros_(net.weight)
    return net


def one_step(asked: DpSgd, x: torch.Tensor, persons: list[str] | None = None) -> np.ndarray:
    """What a step of learning rate 1 moves a linear model by, whose gradient for each row is that row."""
    dp_sgd.set_terms(asked)
    net = line(x.shape[1])
    model, optimizer, loader = dp_sgd.make_private(
        net, torch.optim.SGD(net.parameters(), lr=1.0), TensorDataset(x), persons=persons
    )
    (batch,) = next(iter(loader))
    optimizer.zero_grad()
    model(batch).mean().backward()
    optimizer.step()
    return -net.weight.detach().numpy()[0]


def test_the_noise_is_as_large_as_the_plan_says() -> None:
    """Chi-square, two-sided, at a false-alarm rate of 1e-6 with the generator's own randomness."""
    inputs, units, sigma, clip = 20_000, 4, 3.0, 0.5
    moved = one_step(terms(noise_multiplier=sigma, max_grad_norm=clip), torch.zeros((units, inputs)))
    scaled = float(((moved * units / (sigma * clip)) ** 2).sum())
    assert chi2.isf(1 - 5e-7, inputs) < scaled < chi2.isf(5e-7, inputs)


@pytest.mark.parametrize("size", [1e-3, 0.9, 50.0, 1e20])
def test_no_record_moves_a_sum_by_more_than_the_clip(size: float) -> None:
    x = torch.zeros((1, 4))
    x[0, 0] = size
    moved = np.mean([one_step(terms(), x)[0] for _ in range(60)])
    assert moved == pytest.approx(min(size, 1.0), abs=6 * SILENT / math.sqrt(60))


def test_a_person_counts_once_however_many_rows_it_has() -> None:
    x = torch.zeros((100, 4))
    x[:99, 0] = 40.0  # 99 rows of one person
    x[99, 1] = 40.0
    persons = ["a"] * 99 + ["b"]
    asked = terms(unit=Unit.PERSON, person_column="id")
    moved = np.mean([one_step(asked, x, persons) for _ in range(60)], axis=0) * 2
    assert moved[:2] == pytest.approx([1.0, 1.0], abs=12 * SILENT / math.sqrt(60))
    as_records = np.mean([one_step(terms(), x) for _ in range(20)], axis=0) * 100
    assert as_records[:2] == pytest.approx([99.0, 1.0], abs=6)


def test_samples_are_drawn_by_persons_with_the_plans_rate_and_may_be_empty() -> None:
    asked = terms(unit=Unit.PERSON, person_column="id", sample_rate=0.2, max_steps=400)
    dp_sgd.set_terms(asked)
    net = line(1)
    x = torch.arange(20.0).reshape(20, 1)
    persons = [f"p{row // 2}" for row in range(20)]
    _, _, loader = dp_sgd.make_private(
        net, torch.optim.SGD(net.parameters(), lr=0.0), TensorDataset(x), persons=persons
    )
    counts, batches = np.zeros(20), iter(loader)
    sizes = []
    for _ in range(400):
        (batch,) = next(batches)
        rows = batch.reshape(-1).int().tolist()
        sizes.append(len(rows))
        counts[rows] += 1
    assert (counts[0::2] == counts[1::2]).all()  # both rows of a person, or none
    assert 0 in sizes
    assert counts.mean() == pytest.approx(80, abs=5 * math.sqrt(64 / 10))


def test_an_empty_sample_is_a_step_of_noise() -> None:
    dp_sgd.set_terms(terms(sample_rate=1e-6))
    net = line(3)
    model, optimizer, loader = dp_sgd.make_private(
        net, torch.optim.SGD(net.parameters(), lr=1e-6), TensorDataset(torch.ones((2, 3)))
    )
    for (batch,) in loader:
        assert len(batch) == 0
        optimizer.zero_grad()
        model(batch).sum().backward()
        optimizer.step()
    assert dp_sgd.steps() == 3
    assert net.weight.abs().min() > 0


def test_the_loader_ends_with_the_rounds_steps_and_no_step_is_made_beyond() -> None:
    dp_sgd.set_terms(terms())
    net = line(2)
    model, optimizer, loader = dp_sgd.make_private(
        net, torch.optim.SGD(net.parameters(), lr=0.1), TensorDataset(torch.ones((5, 2)))
    )
    for (batch,) in loader:
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()
    assert dp_sgd.steps() == 3
    assert list(loader) == []
    optimizer.zero_grad()
    model(batch).mean().backward()
    with pytest.raises(AppError) as caught:
        optimizer.step()
    assert caught.value.reason is Reason.APP_NOT_PRIVATE


def test_two_batches_are_not_one_step() -> None:
    dp_sgd.set_terms(terms())
    net = line(2)
    model, optimizer, loader = dp_sgd.make_private(
        net, torch.optim.SGD(net.parameters(), lr=0.1), TensorDataset(torch.ones((5, 2)))
    )
    batches = iter(loader)
    for _ in range(2):
        (batch,) = next(batches)
        model(batch).mean().backward()
    with pytest.raises(ValueError, match="another batch"):
        optimizer.step()


def test_without_terms_nothing_is_private_and_nothing_is_counted() -> None:
    assert dp_sgd.terms() is None
    assert dp_sgd.steps() is None
    with pytest.raises(RuntimeError):
        dp_sgd.make_private(line(1), None, None)


def test_persons_must_be_told_where_they_are_the_unit() -> None:
    dp_sgd.set_terms(terms(unit=Unit.PERSON, person_column="id"))
    net = line(1)
    optimizer, rows = torch.optim.SGD(net.parameters(), lr=0.1), TensorDataset(torch.ones((2, 1)))
    with pytest.raises(ValueError, match="persons="):
        dp_sgd.make_private(net, optimizer, rows)
    with pytest.raises(ValueError, match="one for each row"):
        dp_sgd.make_private(net, optimizer, rows, persons=["a"])


def test_a_model_that_mixes_rows_is_refused() -> None:
    dp_sgd.set_terms(terms())
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match="cannot be made private"):
        dp_sgd.make_private(net, torch.optim.SGD(net.parameters(), lr=0.1), TensorDataset(torch.ones((4, 2))))
