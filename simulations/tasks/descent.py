"""Stochastic gradient descent over prepared tensors: what ``torch.optim.SGD`` computes, without its bookkeeping.

Trust zone: the developer's machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
