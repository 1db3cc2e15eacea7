"""A large linear layer whose steps are written to its weight late. Trust zone: the developer's machine.

After some steps of plain descent the weight is ``W - r · Gᵀ X``: ``X`` the rows that went in, ``G`` the gradients that
came back, ``r`` the learning rate. While those are fewer numbers than the weight has, they are kept, and what the layer
gives is corrected by them: products of a few rows, where a step would read and write, and under autocast convert, the
whole weight. What is kept has the weight's own precision.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class DeferredLinear:
    """Stands in for the ``forward`` of an ``nn.Linear`` that nobody else uses, and steps in its backward pass.

    Until it is trusted, the weight is not a number from the first product to when it is settled: who reads it beside
    this finds out.

    Raises:
        RuntimeError: by a backward pass in which the layer was used twice.
    """

    def __init__(self, layer: nn.Linear, learning_rate: float) -> None:
        self.weight, self.bias, self._rate = layer.weight, layer.bias, learning_rate
        outputs, inputs = layer.weight.shape
        most = layer.weight.numel() // (inputs + outputs)
        self._rows, self._gradients = (layer.weight.new_empty(most, size) for size in (inputs, outputs))
        self._steps = 0
        self._trusted = False
        self.forget()

    def __call__(self, rows: Tensor) -> Tensor:
        """As the layer; in a lower precision under ``torch.autocast``."""
        outputs: Tensor = _Product.apply(rows, self.weight, self.bias, self)
        return outputs

    @property
    def steps(self) -> int:
        """How many were taken."""
        return self._steps

    def trust(self) -> None:
        """Nobody else reads the weight."""
        self._trusted = True

    def forget(self) -> None:
        """Drop the steps that are not written: the weight is another now."""
        self._kept = 0
        self._converted: Tensor | None = None
        self._hidden: Tensor | None = None

    def settle(self) -> None:
        """Write the steps to the weight."""
        with torch.no_grad():
            self._write_kept()
            if self._hidden is not None:
                self.weight.copy_(self._hidden)
        self.forget()

    def product(self, rows: Tensor) -> Tensor:
        """Of ``rows``, [rows, inputs], with the weight as it is after all steps; in the type of ``rows``."""
        bias = None if self.bias is None else self.bias.to(rows.dtype)
        outputs = nn.functional.linear(rows, self._weight_in(rows.dtype), bias)
        if not self._kept:
            return outputs
        full, alike = outputs.to(self.weight.dtype), rows.to(self.weight.dtype) @ self._rows[: self._kept].t()
        return full.addmm_(alike, self._gradients[: self._kept], alpha=-self._rate).to(rows.dtype)

    def product_back(self, gradients: Tensor) -> Tensor:
        """The gradients of rows, [rows, inputs], from those of their products; in the weight's type."""
        before = (gradients @ self._weight_in(gradients.dtype)).to(self.weight.dtype)
        if self._kept:
            alike = gradients.to(self.weight.dtype) @ self._gradients[: self._kept].t()
            before.addmm_(alike, self._rows[: self._kept], alpha=-self._rate)
        return before

    def step(self, rows: Tensor, gradients: Tensor) -> None:
        """Step down ``gradients``, [rows, outputs], of the products of ``rows``, [rows, inputs]."""
        self._steps += 1
        rows, gradients = rows.to(self.weight.dtype), gradients.to(self.weight.dtype)
        if self.bias is not None:
            self.bias.add_(gradients.sum(0), alpha=-self._rate)
        if self._kept + len(rows) > len(self._rows):
            self._write_kept()
        if len(rows) > len(self._rows):
            self._write(rows, gradients)
            return
        place = slice(self._kept, self._kept + len(rows))
        self._rows[place], self._gradients[place] = rows, gradients
        self._kept += len(rows)

    def _write_kept(self) -> None:
        if self._kept:
            self._write(self._rows[: self._kept], self._gradients[: self._kept])
        self._kept = 0

    def _write(self, rows: Tensor, gradients: Tensor) -> None:
        self._written.addmm_(gradients.t(), rows, alpha=-self._rate)
        self._converted = None

    @property
    def _written(self) -> Tensor:
        """The weight without the steps that are kept."""
        return self.weight.detach() if self._hidden is None else self._hidden

    def _weight_in(self, kind: torch.dtype) -> Tensor:
        if not self._trusted and self._hidden is None:
            self._hidden = self.weight.clone()
            self.weight.fill_(math.nan)
        if kind == self._written.dtype:
            return self._written
        if self._converted is None:
            self._converted = self._written.to(kind)
        return self._converted


class _Product(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, layer: DeferredLinear) -> Tensor:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
        given = rows.to(kind)
        ctx.save_for_backward(given)
        ctx.layer, ctx.steps, ctx.kind = layer, layer.steps, rows.dtype
        with torch.autocast("cpu", enabled=False):
            return layer.product(given.reshape(-1, given.shape[-1])).reshape(*rows.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        layer, (rows,) = ctx.layer, ctx.saved_tensors
        if layer.steps != ctx.steps:
            raise RuntimeError("a linear layer that steps in its backward pass was used twice in a pass")
        flat = gradient.reshape(-1, gradient.shape[-1])
        before = None
        if ctx.needs_input_grad[0]:
            before = layer.product_back(flat).to(ctx.kind).reshape(rows.shape)
        layer.step(rows.reshape(-1, rows.shape[-1]), flat)
        return before, None, None, None
