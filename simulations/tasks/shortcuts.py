"""The same step with less work, for modules that allow it. Trust zone: the developer's machine.

1. A large linear layer takes its step in the backward pass, its gradient is never written to memory, and the weight
   only after several steps.
2. A maximum over ReLUs is the ReLU of the maximum: pooled first, fewer of them are computed.
3. Maxima over an image are found for many channels at once where channels lie innermost: turning it to and fro costs a
   third of what that saves.
4. What a flattened image gets back has its channels where the image has them: an elementwise step over two tensors
   whose channels lie in different places takes ten times as long.

Whoever takes them tries a step with and without, and undoes them where that shows a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from simulations.tasks.deferred import DeferredLinear

_LEAST_DEFERRED = 1 << 16  # elements of a weight: below it the call costs more than the memory that it does not touch
_LEAST_CHANNELS = 16  # of an image: as many numbers as a vector register holds
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)

Undo = Callable[[], None]


def defer(module: nn.Module, learning_rate: float) -> tuple[list[DeferredLinear], Undo] | None:
    """Let the large linear layers of ``module`` step in their backward pass, and late; None: it has none.

    Only layers that are exactly ``nn.Linear``, without hooks, whose weight nobody shares. Gradients of theirs are None.
    """
    users: dict[int, int] = {}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    large = [part for part in module.modules() if type(part) is nn.Linear and _can_be_deferred(part, users)]
    for layer in large:
        layer.forward = DeferredLinear(layer, learning_rate)
    return ([layer.forward for layer in large], _undo(large)) if large else None


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


class _InnermostPool(torch.autograd.Function):  # type: ignore[misc]
    """A maximum over an image whose channels lie outermost, found with them innermost."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, pool: nn.MaxPool2d) -> Tensor:
        ctx.window = [_pair(part) for part in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)]
        ctx.ceil_mode = pool.ceil_mode
        turned = image.contiguous(memory_format=torch.channels_last)
        largest, places = torch.ops.aten.max_pool2d_with_indices(turned, *ctx.window, ctx.ceil_mode)
        ctx.save_for_backward(image, places.contiguous())
        outermost: Tensor = largest.contiguous()
        return outermost

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        image, places = ctx.saved_tensors
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return backward(gradient.contiguous(), image, *ctx.window, ctx.ceil_mode, places), None


def pool_innermost(module: nn.Module) -> Undo | None:
    """Let every ``nn.MaxPool2d`` of ``module`` find its maxima over many channels at once; None: it has none."""
    pools = [part for part in module.modules() if type(part) is nn.MaxPool2d and not part.return_indices]
    for pool in pools:
        pool.forward = _innermost(pool)
    return _undo(pools) if pools else None


def _innermost(pool: nn.MaxPool2d) -> Callable[[Tensor], Tensor]:
    plain = pool.forward

    def forward(image: Tensor) -> Tensor:
        if image.dim() == 4 and image.shape[1] >= _LEAST_CHANNELS and image.is_contiguous():
            largest: Tensor = _InnermostPool.apply(image, pool)
            return largest
        return plain(image)

    return forward


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def keep_channels_last(module: nn.Module) -> Undo | None:
    """Let every ``nn.Flatten`` of ``module`` give gradients back as its images lie; None: it has none."""
    flat = [part for part in module.modules() if type(part) is nn.Flatten and not _has_hooks(part)]
    flat = [part for part in flat if (part.start_dim, part.end_dim) == (1, -1)]
    for layer in flat:
        layer.forward = _flat_image
    return _undo(flat) if flat else None


def _flat_image(image: Tensor) -> Tensor:
    if image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last):
        flat: Tensor = _FlatImage.apply(image)
        return flat
    return image.flatten(1)


def _undo(parts: list[nn.Module]) -> Undo:
    def undo() -> None:
        for part in parts:
            del part.forward

    return undo


def _can_be_deferred(layer: nn.Linear, users: dict[int, int]) -> bool:
    alone = all(users[id(parameter)] == 1 and parameter.requires_grad for parameter in layer.parameters())
    return alone and not _has_hooks(layer) and bool(layer.weight.numel() >= _LEAST_DEFERRED)


def _has_hooks(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)
