"""One site after the other, with one model whose tensors are views of one flat vector.

Trust zone: the developer's machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from simulations.tasks.deferred import DeferredLinear
from simulations.tasks.descent import Descent
from simulations.tasks.shortcuts import Undo, defer, keep_channels_last, pool_first, pool_innermost
from simulations.tasks.site_tensors import SiteBatch, batches
from trusted.documents.layout import Dtype, Layout, TensorSpec

_DTYPES = {torch.float32: Dtype.FLOAT32, torch.float64: Dtype.FLOAT64, torch.int64: Dtype.INT64}
Loss = Callable[[Tensor, Tensor], Tensor]
# Of an update's norm: what a shortcut may change in the trial. In bfloat16 a deferred gradient is not rounded to it.
_CLOSE, _CLOSE_BFLOAT16 = 1e-4, 2e-2


def layout_of(module: nn.Module) -> Layout:
    """The layout of the module's parameters and buffers, named as in its ``state_dict``.

    Raises:
        ValueError: a tensor of another type than float32, float64 and int64, or no tensor.
    """
    specs = []
    for name, tensor in module.state_dict().items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"module: {name} is {tensor.dtype}; float32, float64 and int64 can be folded")
        specs.append(TensorSpec(name, _DTYPES[tensor.dtype], tuple(tensor.shape)))
    if not specs:
        raise ValueError("module: it has no parameters")
    return Layout(tuple(specs))


@dataclass(frozen=True, slots=True)
class Lesson:
    """How a site's training went: the mean loss of its steps, and the seconds that they took."""

    loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Apart:
    """A tensor that cannot be a view of the flat vector: of another type, with its channels innermost, or shared."""

    tensor: Tensor
    flat: Tensor


class OneByOne:
    """A module and its optimiser, used again for each site."""

    def __init__(
        self,
        module: nn.Module,
        *,
        loss: Loss,
        descent: Descent,
        batch: int,
        channels_last: bool,
        bfloat16: bool,
    ) -> None:
        self.module = module.to(memory_format=torch.channels_last) if channels_last else module
        self._loss, self._descent, self._batch = loss, descent, batch
        self._bfloat16, self._channels_last = bfloat16, channels_last
        self._flat, self._apart = _flatten(self.module)
        self._deferred: Sequence[DeferredLinear] = ()
        self._parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    @property
    def flat(self) -> Tensor:
        """The model now, float32[elements]; a copy."""
        self._collect()
        return self._flat.clone()

    def load(self, model: Tensor) -> None:
        """Make ``model``, float32[elements], the module's."""
        for layer in self._deferred:
            layer.forget()
        self._flat.copy_(model)
        for part in self._apart:
            source = part.flat.round() if part.tensor.dtype == torch.int64 else part.flat
            part.tensor.data.copy_(source)

    def train(self, model: Tensor, sites: Sequence[SiteBatch], out: Sequence[Tensor]) -> list[Lesson]:
        """Write trained minus ``model``, both float32[elements], to each site's ``out``."""
        self.module.train()
        lessons = []
        for site, row in zip(sites, out, strict=True):
            start = time.perf_counter()
            loss = self._descend(model, site)
            torch.sub(self._flat, model, out=row)
            lessons.append(Lesson(loss, time.perf_counter() - start))
        return lessons

    def _descend(self, model: Tensor, site: SiteBatch) -> float:
        """The mean loss of the steps; ``_flat`` is the trained model."""
        torch.manual_seed(site.seed)
        self.load(model)
        anchors = [parameter.detach().clone() for parameter in self._parameters] if self._descent.proximal else []
        momenta: list[Tensor] = []
        total = torch.zeros(())
        steps = batches(len(site.features), self._batch, len(site.orders))
        order, at = None, -1
        for epoch, low, high in steps:
            if epoch != at:
                order, at = site.orders[epoch], epoch
            rows = slice(low, high) if order is None else order[low:high]
            value = self._mean_loss(site.features[rows], site.labels[rows])
            momenta = self._step(value, momenta, anchors)
            total += value.detach()
        self._collect()
        return float(total) / len(steps)

    def take_shortcuts(self, model: Tensor, site: SiteBatch) -> None:
        """Do the same with less work, where two steps on ``site`` show that nothing changes."""
        steps = SiteBatch(site.features[: self._batch], site.labels[: self._batch], [None, None])
        ways: list[Callable[[], Undo | None]] = [lambda: pool_first(self.module)]
        layout = keep_channels_last if self._channels_last else pool_innermost
        ways.append(lambda: layout(self.module))
        if self._descent.plain:
            ways.append(self._defer)
        with torch.random.fork_rng(devices=[]):
            for way in ways:
                self._take(way, model, steps)
        for layer in self._deferred:
            layer.trust()

    def _defer(self) -> Undo | None:
        taken = defer(self.module, self._descent.learning_rate)
        if taken is None:
            return None
        self._deferred, undo = taken

        def undo_deferred() -> None:
            self._deferred = ()
            undo()

        return undo_deferred

    def _take(self, way: Callable[[], Undo | None], model: Tensor, steps: SiteBatch) -> None:
        before, after = torch.empty_like(model), torch.empty_like(model)
        self.train(model, [steps], [before])
        undo = way()
        if undo is None:
            return
        try:
            self.train(model, [steps], [after])
            difference, close = (before - after).norm(), _CLOSE_BFLOAT16 if self._bfloat16 else _CLOSE
            equal = bool(difference <= close * before.norm())
        except RuntimeError:  # a layer that is used twice in a pass
            equal = False
        if not equal:
            undo()

    def _mean_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        if not self._bfloat16:
            return self._loss(self.module(features), labels).mean()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = self.module(features)
        return self._loss(output.float(), labels).mean()

    def _step(self, value: Tensor, momenta: list[Tensor], anchors: list[Tensor]) -> list[Tensor]:
        found = torch.autograd.grad(value, self._parameters, allow_unused=True)  # None: deferred, or not in this pass
        if all(gradient is not None for gradient in found):
            return self._descent.step(self._parameters, list(found), momenta, anchors)
        if not self._descent.plain:
            zeros = [torch.zeros_like(p) if g is None else g for p, g in zip(self._parameters, found, strict=True)]
            return self._descent.step(self._parameters, zeros, momenta, anchors)
        moved = [(p, g) for p, g in zip(self._parameters, found, strict=True) if g is not None]
        if moved:
            self._descent.step([p for p, _ in moved], [g for _, g in moved], [], [])
        return momenta

    def _collect(self) -> None:
        for layer in self._deferred:
            layer.settle()
        for part in self._apart:
            part.flat.copy_(part.tensor.detach())


def _flatten(module: nn.Module) -> tuple[Tensor, Sequence[_Apart]]:
    """One float32 vector in the layout's order, of which the module's tensors are now views, and what cannot be."""
    state: dict[str, Any] = module.state_dict(keep_vars=True)
    flat = torch.empty(sum(tensor.numel() for tensor in state.values()))
    apart: list[_Apart] = []
    seen: set[int] = set()
    start = 0
    for tensor in state.values():
        view = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
        view.copy_(tensor.detach())
        if tensor.dtype == torch.float32 and tensor.is_contiguous() and id(tensor) not in seen:
            tensor.data = view
        else:
            apart.append(_Apart(tensor, view))
        seen.add(id(tensor))
    return flat, apart
