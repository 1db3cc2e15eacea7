"""DP-SGD with Opacus, on a lattice and from a cryptographic generator. Trust zone: worker, in the trainer process.

Gradients of single rows are Opacus' (``GradSampleModule``), and so is the order of a step (``DPOptimizer``). What
becomes of them is ours: rows of one person are added up, each unit's gradient is clipped, rounded to a lattice and
summed in integers, noise is added there (:mod:`trusted.noise`), and samples are drawn from the same generator. Opacus'
own secure mode needs torchcsprng, which does not run with this torch. Imported by ``worker.dp_sgd`` alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.data_loader import wrap_collate_with_empty
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch.utils.data import DataLoader, default_collate

from trusted.lattice import Lattice
from trusted.noise import NoiseKey, add_gaussian, coins
from worker.dp_sgd import Account

_ROOM_BYTES = 64 << 20  # of units that are rounded at once


@dataclass(slots=True)
class _Drawn:
    """The unit of each row in the batch that the loader gave last, 0 to ``count`` - 1."""

    units: torch.Tensor
    count: int


class PoissonSampler:
    """Batches of rows: in each, every unit with the plan's probability, and all rows of a unit that is in it.

    ``count`` of units is taken to be public. Ends when the round's steps are made.
    """

    def __init__(self, account: Account, rows_of: Sequence[Sequence[int]], drawn: _Drawn) -> None:
        self._account = account
        self._rows_of = rows_of
        self._drawn = drawn

    def __iter__(self) -> Iterator[list[int]]:
        """Fresh coins for each batch."""
        while self._account.left > 0:
            chosen = np.flatnonzero(coins(NoiseKey.generate(), self._account.terms.sample_rate, len(self._rows_of)))
            batch = [self._rows_of[unit] for unit in chosen.tolist()]
            places = [place for place, rows in enumerate(batch) for _ in rows]
            self._drawn.units, self._drawn.count = torch.tensor(places, dtype=torch.long), len(batch)
            yield [row for rows in batch for row in rows]


class LatticeOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser, with units for rows, and sums and noise in integers."""

    def __init__(self, optimizer: torch.optim.Optimizer, account: Account, drawn: _Drawn, units: int) -> None:
        terms = account.terms
        super().__init__(
            optimizer,
            noise_multiplier=terms.noise_multiplier,
            max_grad_norm=terms.max_grad_norm,
            expected_batch_size=1,  # scale_grad is ours
            loss_reduction="mean",
        )
        self._account = account
        self._drawn = drawn
        self._expected = terms.sample_rate * units
        self._lattice = Lattice(terms.max_grad_norm, sum(p.numel() for p in self.params))
        self._sum: np.ndarray | None = None

    def clip_and_accumulate(self) -> None:
        """Clip each unit's gradient, round it, and sum: int64[elements of all parameters]."""
        samples = [self._get_flat_grad_sample(p) for p in self.params]
        flat = [s.detach().reshape(len(s), p.numel()).double() for s, p in zip(samples, self.params, strict=True)]
        rows = torch.cat(flat, dim=1)
        if len(rows) != len(self._drawn.units):
            raise ValueError("dp_sgd: a step on another batch than the loader gave last")
        total = np.zeros(self._lattice.elements, np.int64)
        units = torch.zeros((self._drawn.count, rows.shape[1]), dtype=torch.double)
        units.index_add_(0, self._drawn.units, rows)
        units /= torch.bincount(self._drawn.units, minlength=max(1, self._drawn.count))[: len(units), None]
        if not torch.isfinite(units).all():
            raise ValueError("dp_sgd: a gradient is not finite")
        norms = torch.linalg.vector_norm(units, dim=1).tolist()
        step = max(1, _ROOM_BYTES // (8 * self._lattice.elements))
        for start in range(0, len(norms), step):
            factors = [self._lattice.factor(norm) for norm in norms[start : start + step]]
            scaled = units[start : start + step].numpy() * np.array(factors)[:, None]
            total += np.rint(scaled).astype(np.int64).sum(axis=0)
        self._sum = total
        for p in self.params:
            p.grad_sample = None

    def add_noise(self) -> None:
        """One draw of noise on the sum; from here on it is post-processing."""
        if self._sum is None:
            raise RuntimeError("dp_sgd: noise without a sum")
        self._account.spend()
        noisy, self._sum = self._sum, None
        deviation = self.noise_multiplier * self.max_grad_norm / self._lattice.step
        add_gaussian(noisy, NoiseKey.generate(), deviation)
        start = 0
        for p in self.params:
            part = noisy[start : start + p.numel()] * (self._lattice.step / self._expected)
            p.grad = torch.from_numpy(part).to(p.dtype).view_as(p)
            start += p.numel()

    def scale_grad(self) -> None:
        """Done already, by the number of units that a batch has on average: how many it has is not public."""

    def pre_step(self, closure: Any = None) -> bool:
        """Opacus' order of a step, without its ways to skip one."""
        self.clip_and_accumulate()
        self.add_noise()
        self._is_last_step_skipped = False
        return True


@dataclass(slots=True)
class PrivateTraining:
    """Model, optimiser and loader, to be unpacked; the model's own weights are trained in place."""

    model: GradSampleModule
    optimizer: LatticeOptimizer
    loader: DataLoader[Any]

    @classmethod
    def of(
        cls, account: Account, model: Any, optimizer: Any, dataset: Any, persons: Sequence[Hashable] | None
    ) -> PrivateTraining:
        """As :func:`worker.dp_sgd.make_private`.

        Raises:
            ValueError: what cannot be made private.
        """
        errors = ModuleValidator.validate(model, strict=False)
        if errors:
            raise ValueError(f"dp_sgd: this model cannot be made private: {errors[0]}")
        if persons is not None and len(persons) != len(dataset):
            raise ValueError("dp_sgd: persons= must name one for each row of the data set")
        rows_of = _rows_of(len(dataset), persons)
        if not rows_of:
            raise ValueError("dp_sgd: a data set without rows")
        drawn = _Drawn(torch.zeros(0, dtype=torch.long), 0)
        first = default_collate([dataset[0]])
        parts = first if isinstance(first, list | tuple) else [first]
        collate = wrap_collate_with_empty(
            collate_fn=default_collate,
            sample_empty_shapes=[(0, *part.shape[1:]) for part in parts],
            dtypes=[part.dtype for part in parts],
        )
        sampler: Any = PoissonSampler(account, rows_of, drawn)
        return cls(
            GradSampleModule(model, loss_reduction="mean"),
            LatticeOptimizer(optimizer, account, drawn, len(rows_of)),
            DataLoader(dataset, batch_sampler=sampler, collate_fn=collate),
        )

    def __iter__(self) -> Iterator[Any]:
        """``model, optimizer, loader = …``."""
        return iter((self.model, self.optimizer, self.loader))


def _rows_of(count: int, persons: Sequence[Hashable] | None) -> list[list[int]]:
    if persons is None:
        return [[row] for row in range(count)]
    grouped: dict[Hashable, list[int]] = {}
    for row, person in enumerate(persons):
        grouped.setdefault(person, []).append(row)
    return list(grouped.values())
