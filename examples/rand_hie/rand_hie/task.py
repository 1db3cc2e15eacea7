"""The model, the data and the training loop; nothing here knows how the app is run."""

import csv
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

TARGET, TARGET_AT_LEAST = "mdvis", 5.0  # the question: at least five visits to a doctor in the first year
HELD_OUT = 0.3
ROWS_AT_MOST = 1_000_000

# Public bounds from the study's code book and from common sense, not from the data: scaling by the data's own range
# would tell something about its extremes. `black` is in the files to examine the model with; it is not a feature.
BOUNDS: dict[str, tuple[float, float]] = {
    "xage": (0, 65), "female": (0, 1), "educdec": (0, 25), "income": (0, 30_000), "num": (1, 15), "child": (0, 1),
    "mhi": (0, 100), "disea": (0, 60), "physlm": (0, 1), "xghindx": (0, 100),
    "hlthg": (0, 1), "hlthf": (0, 1), "hlthp": (0, 1),
    "coins": (0, 100), "idp": (0, 1), "lpi": (0, 8), "fmde": (0, 9), "tookphys": (0, 1),
}  # fmt: skip
# Small children see doctors often and teenagers rarely: age enters as ramps too (start, end in years).
AGE_RAMPS = ((0, 3), (3, 8), (8, 18), (18, 25), (25, 40), (40, 65))
COLUMNS = ("zper", *BOUNDS, TARGET)
INPUTS = len(BOUNDS) + len(AGE_RAMPS)


@dataclass
class Table:
    """Rows of one or more sites: ``person`` ids, ``x`` float32[n, INPUTS] within [-1, 1], ``y`` float32[n], 0 or 1."""

    person: list[str]
    x: torch.Tensor
    y: torch.Tensor

    def where(self, mask: np.ndarray) -> "Table":
        """The rows where ``mask``, bool[n], is set."""
        chosen = torch.from_numpy(mask)
        return Table([p for p, keep in zip(self.person, mask, strict=True) if keep], self.x[chosen], self.y[chosen])


@dataclass
class Split:
    """What a model may learn from, and what it is judged by. No person is in both."""

    train: Table
    held_out: Table


class Net(nn.Module):
    """One hidden layer; the output is the logit of five visits or more."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.hidden = nn.Linear(INPUTS, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.hidden(x))).squeeze(-1)


# Noise has as many dimensions as the model: with little privacy to spend, few numbers are learned.
FEW = ("female", "educdec", "disea", "physlm", "coins", "num", "xghindx", "fmde")
FEW_RAMPS = (0, 1, 4)


class Linear(nn.Module):
    """A logistic regression on a few inputs, from zeros: the model for training under DP-SGD."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen = [*(list(BOUNDS).index(name) for name in FEW), *(len(BOUNDS) + ramp for ramp in FEW_RAMPS)]
        self.out = nn.Linear(len(self.chosen), 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x[:, self.chosen]).squeeze(-1)


def make_net(kind: str) -> nn.Module:
    """The model by its name in the run config, ``net`` or ``linear``."""
    return {"net": Net, "linear": Linear}[kind]()


def initial_arrays(seed: int, kind: str = "net") -> "OrderedDict[str, torch.Tensor]":
    """The initial model for ``seed``, by name, as every member can make it again."""
    torch.manual_seed(seed)
    return OrderedDict((name, tensor.detach().clone()) for name, tensor in make_net(kind).state_dict().items())


def load_table(path: Path) -> Table:
    """Read one site's CSV file, or every ``*.csv`` of a folder."""
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError("no CSV file in the data folder")
    rows = [row for file in files for row in _read(file)]
    raw = {name: np.array([float(row[name]) for row in rows], dtype=np.float64) for name in (*BOUNDS, TARGET)}
    y = (raw[TARGET] >= TARGET_AT_LEAST).astype(np.float32)
    return Table([row["zper"] for row in rows], torch.from_numpy(_features(raw)), torch.from_numpy(y))


def _read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"columns missing: {', '.join(missing)}")
        rows = list(reader)
    if not 0 < len(rows) <= ROWS_AT_MOST:
        raise ValueError(f"1 to {ROWS_AT_MOST} rows expected")
    return rows


def _features(raw: dict[str, np.ndarray]) -> np.ndarray:
    columns = [(raw[name] - low) / (high - low) for name, (low, high) in BOUNDS.items()]
    columns += [(raw["xage"] - start) / (end - start) for start, end in AGE_RAMPS]
    return (np.clip(np.stack(columns, axis=1), 0.0, 1.0) * 2.0 - 1.0).astype(np.float32)


def split(table: Table, seed: int) -> Split:
    """Hold out 30 % of the persons by a hash of id and seed: the same persons everywhere, whatever the row order."""
    held_out = is_held_out(table, seed)
    return Split(table.where(~held_out), table.where(held_out))


def is_held_out(table: Table, seed: int) -> np.ndarray:
    """Of each row whether its person is held out, bool[n]."""
    shares = [int.from_bytes(hashlib.sha256(f"{seed}:{p}".encode()).digest()[:8], "big") / 2**64 for p in table.person]
    return np.array(shares) < HELD_OUT


def train(net: nn.Module, table: Table, *, epochs: int, lr: float, batch: int, seed: int) -> float:
    """Minibatch SGD in an order drawn from ``seed``; returns the mean loss of the last epoch."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    loss_of = nn.BCEWithLogitsLoss()
    total = 0.0
    net.train()
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(table.y), generator=order).split(batch):
            optimizer.zero_grad()
            loss = loss_of(net(table.x[rows]), table.y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
    return total / len(table.y)


def train_private(net: nn.Module, table: Table, *, lr: float) -> None:
    """DP-SGD as the plan asks for it: persons are the units, and how many steps there are is the plan's matter."""
    from worker import dp_sgd

    rows = torch.utils.data.TensorDataset(table.x, table.y)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    private, optimizer, loader = dp_sgd.make_private(net, optimizer, rows, persons=table.person)
    loss_of = nn.BCEWithLogitsLoss()
    for x, y in loader:
        optimizer.zero_grad()
        loss_of(private(x), y).backward()
        optimizer.step()


@torch.no_grad()
def evaluate(net: nn.Module, table: Table) -> tuple[float, float]:
    """Loss and AUC on ``table``."""
    net.eval()
    scores = net(table.x)
    loss = nn.functional.binary_cross_entropy_with_logits(scores, table.y).item()
    return loss, auc(table.y.numpy(), scores.numpy())


@torch.no_grad()
def chances(net: nn.Module, table: Table) -> np.ndarray:
    """The chance of five visits or more for each row, float32[n]."""
    net.eval()
    return torch.sigmoid(net(table.x)).numpy()


@torch.no_grad()
def score(net: nn.Module, raw: dict[str, np.ndarray]) -> np.ndarray:
    """The probability, float32[rows], of five visits or more, from the columns of ``BOUNDS``, each float64[rows]."""
    net.eval()
    return torch.sigmoid(net(torch.from_numpy(_features(raw)))).numpy()


def auc(y: np.ndarray, scores: np.ndarray) -> float:
    """The exact area under the ROC curve by ranks (Mann-Whitney), ties counted half; 0.5 when a class is absent."""
    positives = int(y.sum())
    negatives = len(y) - positives
    if positives == 0 or negatives == 0:
        return 0.5
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2.0
    rank_sum = float(mean_rank[inverse][y > 0].sum())
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)
