"""The two models, their loss and their learning rate. Trust zone: the developer's machine.

Runs in every tool's environment: it needs PyTorch only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.simulation.work import CLASSES, COLUMNS

LEARNING_RATE = 0.1


class FraudDetector(nn.Module):  # type: ignore[misc]
    """30 columns to one number, through 64 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(COLUMNS, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, rows: Tensor) -> Tensor:
        """A logit for each row."""
        logits: Tensor = self.layers(rows)
        return logits.squeeze(-1)


class ImageClassifier(nn.Module):  # type: ignore[misc]
    """pfl-research's model for CIFAR-10 without its dropout: 1.63 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 14 * 14, 128),
            nn.ReLU(),
            nn.Linear(128, CLASSES),
        )

    def forward(self, images: Tensor) -> Tensor:
        """A logit for each class."""
        logits: Tensor = self.layers(images)
        return logits


def module_of(model: str) -> nn.Module:
    """The same weights each time."""
    torch.manual_seed(0)
    return ImageClassifier() if model == "cnn" else FraudDetector()


def loss_of(model: str, outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Of a step; with ``reduction="none"`` of each row."""
    if model == "cnn":
        return functional.cross_entropy(outputs, labels, reduction=reduction)
    return functional.binary_cross_entropy_with_logits(outputs, labels, reduction=reduction)
