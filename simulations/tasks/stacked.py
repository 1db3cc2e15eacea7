"""Several sites' models trained together: one batched matrix product instead of one product for each site.

Trust zone: the developer's machine. For modules made of linear layers and functions of single elements: a small product
costs its call more than its arithmetic. Convolutions lose by it, and ``torch.func.vmap`` was slower than one site after
the other for both, so neither is tried. What a site gets differs from training alone in the last bits of a float32.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from simulations.tasks.descent import Descent
from simulations.tasks.one_by_one import Lesson, Loss
from simulations.tasks.site_tensors import SiteBatch, batches

# What acts on each element for itself, or on the last axis: the axis of sites before the rows changes nothing for it.
_LAYERS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardtanh,
    nn.Identity,
)  # fmt: skip
_FUNCTIONS = frozenset(
    {
        F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.softplus, F.hardtanh, torch.relu, torch.sigmoid,
        torch.tanh, operator.add, operator.mul, operator.sub,
    }
)  # fmt: skip
_METHODS = frozenset({"relu", "sigmoid", "tanh"})
_LAST_AXIS = "squeeze"  # only as squeeze(-1)

Step = tuple[str, Callable[..., Tensor] | None, tuple[Any, ...], dict[str, Any], tuple[int, int | None] | None]


class NotStackable(Exception):
    """Why a module cannot be trained for several sites together."""


@dataclass(frozen=True, slots=True)
class Stacked:
    """A module as a list of steps over float32[sites, rows, …].

    Attributes:
        steps: name of the result, function, arguments; for a linear layer the places of its weight and bias instead.
        shapes: of the parameters, in the layout's order.
    """

    steps: tuple[Step, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, module: nn.Module) -> Stacked:
        """The steps of ``module``.

        Raises:
            NotStackable: it has other layers, buffers, or a layer that is used twice.
        """
        names = {name: place for place, (name, _) in enumerate(module.named_parameters())}
        if any(True for _ in module.buffers()) or not all(p.requires_grad for p in module.parameters()):
            raise NotStackable("it has buffers or frozen parameters")
        try:
            graph = fx.symbolic_trace(module).graph
        except Exception as error:  # tracing runs the module's code on stand-ins, which may raise anything
            raise NotStackable(f"it cannot be traced: {type(error).__name__}") from None
        layers = dict(module.named_modules())
        steps = tuple(_step(node, layers, names) for node in graph.nodes if node.op not in ("placeholder", "output"))
        used = [place for step in steps if step[4] for place in step[4] if place is not None]
        if sorted(used) != list(range(len(names))):
            raise NotStackable("a parameter is used twice, or not by a linear layer")
        output = next(node for node in graph.nodes if node.op == "output").args[0]
        if not steps or getattr(output, "name", None) != steps[-1][0]:
            raise NotStackable("its result is not its last step")
        if sum(node.op == "placeholder" for node in graph.nodes) != 1:
            raise NotStackable("it takes more than one tensor")
        return cls(steps, tuple(tuple(parameter.shape) for parameter in module.parameters()))

    def split(self, model: Tensor) -> list[Tensor]:
        """The parameters in ``model``, float32[elements]; views."""
        parts = model.split([math.prod(shape) for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def forward(self, parameters: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Float32[sites, rows, …] from ``rows``, float32[sites, rows, features]."""
        known: dict[str, Tensor] = {}
        value = rows
        for name, function, arguments, options, linear in self.steps:
            taken = [known.get(item, rows) if isinstance(item, str) else item for item in arguments]
            if function is not None:
                value = function(*taken, **options)
            elif linear is not None:
                value = _linear(taken[0], parameters[linear[0]], None if linear[1] is None else parameters[linear[1]])
            known[name] = value
        return value


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return torch.bmm(rows, weight.transpose(1, 2))
    return torch.baddbmm(bias.unsqueeze(1), rows, weight.transpose(1, 2))


def _step(node: fx.Node, layers: dict[str, nn.Module], names: dict[str, int]) -> Step:
    arguments = tuple(item.name if isinstance(item, fx.Node) else item for item in node.args)
    options = dict(node.kwargs)
    if any(isinstance(item, fx.Node) for item in options.values()):
        raise NotStackable(f"{node.name}: a tensor by keyword")
    if any(
        isinstance(item, str) and not isinstance(was, fx.Node) for item, was in zip(arguments, node.args, strict=True)
    ):
        raise NotStackable(f"{node.name}: a text as argument")
    if node.op == "call_module":
        layer = layers[str(node.target)]
        if type(layer) is nn.Linear:
            bias = names[f"{node.target}.bias"] if layer.bias is not None else None
            return node.name, None, arguments, {}, (names[f"{node.target}.weight"], bias)
        if type(layer) in _LAYERS:
            return node.name, layer, arguments, {}, None
    elif node.op == "call_function" and node.target in _FUNCTIONS:
        return node.name, node.target, arguments, options, None
    elif node.op == "call_method":
        if node.target in _METHODS:
            return node.name, getattr(Tensor, str(node.target)), arguments, options, None
        if node.target == _LAST_AXIS and node.args[1:] == (-1,) and not options:
            return node.name, Tensor.squeeze, arguments, {}, None
    raise NotStackable(f"{node.name}: only linear layers and functions of single elements are")


class Together:
    """The models of at most ``count`` sites in one stack, and then those of the next."""

    def __init__(self, stacked: Stacked, *, count: int, loss: Loss, descent: Descent, batch: int) -> None:
        self._stacked, self._count = stacked, count
        self._loss, self._descent, self._batch = loss, descent, batch

    def train(self, model: Tensor, sites: Sequence[SiteBatch], out: Sequence[Tensor]) -> list[Lesson]:
        """As :meth:`OneByOne.train`. Sites of similar sizes share a stack, and each is done when its rows are."""
        order = sorted(range(len(sites)), key=lambda place: -len(sites[place].features))
        lessons: dict[int, Lesson] = {}
        for first in range(0, len(order), self._count):
            places = order[first : first + self._count]
            start = time.perf_counter()
            parameters, losses = self._descend(model, [sites[place] for place in places])
            for at, place in enumerate(places):
                torch.cat([parameter[at].reshape(-1) for parameter in parameters], out=out[place])
                out[place].sub_(model)
            seconds = (time.perf_counter() - start) / len(places)
            lessons.update((place, Lesson(loss, seconds)) for place, loss in zip(places, losses, strict=True))
        return [lessons[place] for place in range(len(sites))]

    def _descend(self, model: Tensor, sites: Sequence[SiteBatch]) -> tuple[list[Tensor], list[float]]:
        """Trained parameters, each float32[sites, shape], and each site's mean loss. ``sites``: most rows first, so
        that whoever has fewer steps leaves the stack at its end."""
        initial = self._stacked.split(model)
        counts = [len(site.features) for site in sites]
        plans = [batches(rows, self._batch, len(site.orders)) for rows, site in zip(counts, sites, strict=True)]
        parameters = [torch.stack([tensor] * len(sites)).requires_grad_() for tensor in initial]
        anchors = [tensor.unsqueeze(0) for tensor in initial]
        momenta: list[Tensor] = []
        losses = torch.zeros(len(sites))
        for step in range(len(plans[0])):
            active = next((place for place, plan in enumerate(plans) if len(plan) <= step), len(sites))
            features, labels, weights = _gather(sites[:active], [plan[step] for plan in plans[:active]])
            now = parameters if active == len(sites) else [parameter[:active] for parameter in parameters]
            values = self._loss(self._stacked.forward(now, features).flatten(0, 1), labels.flatten(0, 1))
            values = values.reshape(active, features.shape[1], -1).mean(-1)
            by_site = values.mean(1) if weights is None else (values * weights).sum(1)
            gradients = list(torch.autograd.grad(by_site.sum(), now))
            held = [momentum[:active] for momentum in momenta]
            stepped = self._descent.step([parameter.detach() for parameter in now], gradients, held, anchors)
            momenta = momenta or stepped
            losses[:active] += by_site.detach()
        means = [float(value) / len(plan) for value, plan in zip(losses, plans, strict=True)]
        return [parameter.detach() for parameter in parameters], means


def _gather(sites: Sequence[SiteBatch], steps: Sequence[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features and labels of one step of each site, and the weight of each row where not all have as many.

    What a smaller batch lacks is filled with its first row at weight 0: a real row, so that its loss is finite.
    """
    sizes = [high - low for _, low, high in steps]
    widest = max(sizes)
    features, labels = [], []
    for site, (epoch, low, high) in zip(sites, steps, strict=True):
        order = site.orders[epoch]
        if order is None and high - low == widest:
            features.append(site.features[low:high])
            labels.append(site.labels[low:high])
            continue
        rows = torch.arange(low, high) if order is None else order[low:high]
        if high - low < widest:
            rows = torch.cat((rows, rows[:1].expand(widest - (high - low))))
        features.append(site.features[rows])
        labels.append(site.labels[rows])
    if min(sizes) == widest:
        return torch.stack(features), torch.stack(labels), None
    share = torch.tensor(sizes).unsqueeze(1)
    weights = (torch.arange(widest) < share) / share
    return torch.stack(features), torch.stack(labels), weights
