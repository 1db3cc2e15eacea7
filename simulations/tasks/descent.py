"""Stochastic gradient descent over prepared tensors: what ``torch.optim.SGD`` computes, without its bookkeeping.

Trust zone: the developer's machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_LEAST_FUSED = 1 << 16  # elements of a weight: below it the call costs more than the memory that it does not touch


@dataclass(frozen=True, slots=True)
class Descent:
    """How a site descends, spelled as in ``torch.optim.SGD``; ``proximal`` is FedProx's μ.

    Raises:
        ValueError: a learning rate that is not above 0, or another number below 0.
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal: float = 0.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: a number above 0 expected, not {self.learning_rate}")
        for name in ("momentum", "weight_decay", "proximal"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: 0 or more expected, not {getattr(self, name)}")

    @property
    def plain(self) -> bool:
        """Whether a step is the gradient times the learning rate and nothing else."""
        return not (self.momentum or self.weight_decay or self.proximal)

    def step(
        self, parameters: list[Tensor], gradients: list[Tensor], momenta: list[Tensor], anchors: list[Tensor]
    ) -> list[Tensor]:
        """Move ``parameters`` in place; the momenta of the next step. ``momenta`` is empty before the first.

        ``anchors``: the model that the round began with, for FedProx.
        """
        with torch.no_grad():
            if self.weight_decay:
                gradients = torch._foreach_add(gradients, parameters, alpha=self.weight_decay)
            if self.proximal:
                away = torch._foreach_sub(parameters, anchors)
                gradients = torch._foreach_add(gradients, away, alpha=self.proximal)
            if self.momentum:
                if momenta:
                    torch._foreach_mul_(momenta, self.momentum)
                    torch._foreach_add_(momenta, gradients)
                else:
                    momenta = [gradient.clone() for gradient in gradients]
                gradients = momenta
            torch._foreach_add_(parameters, gradients, alpha=-self.learning_rate)
        return momenta


class _FusedLinear(torch.autograd.Function):  # type: ignore[misc]
    """A linear layer whose backward pass is its step: the gradient of a large weight is never written to memory."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, learning_rate: float) -> Tensor:
        ctx.save_for_backward(rows, weight)  # the weight too: torch then refuses a layer that is used twice in a pass
        ctx.bias, ctx.learning_rate = bias, learning_rate
        return torch.nn.functional.linear(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        rows, weight = ctx.saved_tensors
        before = gradient @ weight if ctx.needs_input_grad[0] else None
        flat = gradient.reshape(-1, gradient.shape[-1])
        weight.addmm_(flat.t(), rows.reshape(-1, rows.shape[-1]), alpha=-ctx.learning_rate)
        if ctx.bias is not None:
            ctx.bias.add_(flat.sum(0), alpha=-ctx.learning_rate)
        return before, None, None, None


def fuse(module: nn.Module, learning_rate: float) -> list[nn.Linear]:
    """Let the large linear layers of ``module`` step in their backward pass; those layers.

    Only layers that are exactly ``nn.Linear``, without hooks, whose weight nobody shares. Gradients of theirs are None.
    """
    users: dict[int, int] = {}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    fused = [part for part in module.modules() if type(part) is nn.Linear and _fusible(part, users)]
    for layer in fused:
        layer.forward = _fused_forward(layer, learning_rate)
    return fused


def unfuse(layers: Sequence[nn.Linear]) -> None:
    """Undo :func:`fuse`."""
    for layer in layers:
        del layer.forward


def _fusible(layer: nn.Linear, users: dict[int, int]) -> bool:
    alone = all(users[id(parameter)] == 1 and parameter.requires_grad for parameter in layer.parameters())
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return alone and not hooks and bool(layer.weight.numel() >= _LEAST_FUSED)


def _fused_forward(layer: nn.Linear, learning_rate: float) -> Any:
    def forward(rows: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return _FusedLinear.apply(rows, layer.weight, layer.bias, learning_rate)
        return torch.nn.functional.linear(rows, layer.weight, layer.bias)

    return forward
