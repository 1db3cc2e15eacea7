"""The same step with less work, for modules that allow it. Trust zone: the developer's machine.

1. A large linear layer takes its step in the backward pass: its gradient is never written to memory.
2. A maximum over ReLUs is the ReLU of the maximum: pooled first, fewer of them are computed.
3. What a flattened image gets back has its channels where the image has them: an elementwise step over two tensors
   whose channels lie in different places takes ten times as long.

Whoever takes them tries a step with and without, and undoes them where that shows a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_LEAST_FUSED = 1 << 16  # elements of a weight: below it the call costs more than the memory that it does not touch
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)

Undo = Callable[[], None]


class _FusedLinear(torch.autograd.Function):  # type: ignore[misc]
    """A linear layer whose backward pass is its step; in bfloat16 under ``torch.autocast``, as a layer would be."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, learning_rate: float) -> Tensor:
        low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
        given, used = rows.to(low), weight.to(low)
        ctx.save_for_backward(given, used, weight)  # the weight too: torch then refuses a layer used twice in a pass
        ctx.bias, ctx.learning_rate, ctx.rows = bias, learning_rate, rows.dtype
        return torch.nn.functional.linear(given, used, None if bias is None else bias.to(low))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        rows, used, weight = ctx.saved_tensors
        before = (gradient @ used).to(ctx.rows) if ctx.needs_input_grad[0] else None
        flat = gradient.reshape(-1, gradient.shape[-1]).to(weight.dtype)
        flat_rows = rows.reshape(-1, rows.shape[-1]).to(weight.dtype)
        weight.addmm_(flat.t(), flat_rows, alpha=-ctx.learning_rate)
        if ctx.bias is not None:
            ctx.bias.add_(flat.sum(0), alpha=-ctx.learning_rate)
        return before, None, None, None


def fuse(module: nn.Module, learning_rate: float) -> Undo | None:
    """Let the large linear layers of ``module`` step in their backward pass; None: it has none.

    Only layers that are exactly ``nn.Linear``, without hooks, whose weight nobody shares. Gradients of theirs are None.
    """
    users: dict[int, int] = {}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    fused = [part for part in module.modules() if type(part) is nn.Linear and _fusible(part, users)]
    for layer in fused:
        layer.forward = _fused_forward(layer, learning_rate)

    def undo() -> None:
        for layer in fused:
            del layer.forward

    return undo if fused else None


def pool_first(module: nn.Module) -> Undo | None:
    """Let a ReLU and the maximum that follows it in an ``nn.Sequential`` change places; None: there is no such pair."""
    swapped = [
        (part, at)
        for part in module.modules()
        if type(part) is nn.Sequential
        for at in range(len(part) - 1)
        if type(part[at]) is nn.ReLU and type(part[at + 1]) in _POOLS and not part[at + 1].return_indices
        if not (_has_hooks(part[at]) or _has_hooks(part[at + 1]))
    ]

    def swap() -> None:
        for part, at in swapped:
            part[at], part[at + 1] = part[at + 1], part[at]

    swap()
    return swap if swapped else None


class _FlatImage(torch.autograd.Function):  # type: ignore[misc]
    """``flatten(1)`` of an image with its channels innermost, whose gradient has them there too."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        ctx.shape = image.shape
        return image.flatten(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.reshape(ctx.shape).contiguous(memory_format=torch.channels_last)


def keep_channels_last(module: nn.Module) -> Undo | None:
    """Let every ``nn.Flatten`` of ``module`` give gradients back as its images lie; None: it has none."""
    flat = [part for part in module.modules() if type(part) is nn.Flatten and not _has_hooks(part)]
    flat = [part for part in flat if (part.start_dim, part.end_dim) == (1, -1)]
    for layer in flat:
        layer.forward = _flat_image

    def undo() -> None:
        for layer in flat:
            del layer.forward

    return undo if flat else None


def _flat_image(image: Tensor) -> Tensor:
    if image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last):
        flat: Tensor = _FlatImage.apply(image)
        return flat
    return image.flatten(1)


def _fusible(layer: nn.Linear, users: dict[int, int]) -> bool:
    alone = all(users[id(parameter)] == 1 and parameter.requires_grad for parameter in layer.parameters())
    return alone and not _has_hooks(layer) and bool(layer.weight.numel() >= _LEAST_FUSED)


def _has_hooks(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def _fused_forward(layer: nn.Linear, learning_rate: float) -> Callable[[Tensor], Tensor]:
    def forward(rows: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            fused: Tensor = _FusedLinear.apply(rows, layer.weight, layer.bias, learning_rate)
            return fused
        return torch.nn.functional.linear(rows, layer.weight, layer.bias)

    return forward
