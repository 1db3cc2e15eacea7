"""The network, the data and the training loop; nothing here knows how the app is run. All data is SYNTHETIC."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

DAY, TARGET = "synthetic_day", "synthetic_fraud"
ROWS_AT_MOST = 2_000_000
MOST_FALSE_ALARMS = 0.005  # the share of honest payments that a bank can afford to look at

# How each column becomes a number of about 1: by fixed public rules, not by any bank's mean or spread, which would tell
# something about its customers and would differ from bank to bank. Amounts and times go through a logarithm first.
LOGARITHMS: dict[str, tuple[float, float]] = {  # log(1 + value), minus the first, divided by the second
    "amount_cents": (8, 2), "balance_cents": (12, 3), "spent_24h_cents": (4, 4),
    "seconds_since_last": (11, 2), "device_age_hours": (5, 2), "counterparty_age_hours": (5, 2),
    "amount_to_mean_milli": (6.5, 1.5), "amount_to_largest_milli": (5, 2), "balance_drain_milli": (2, 2),
    "account_age_days": (8, 1), "counterparty_payers": (3, 2), "counterparty_payments_48h": (1, 1.5),
    "payments_1h": (0, 0.7), "payments_24h": (0.3, 0.7), "payments_7d": (1.2, 0.7), "small_payments_1h": (0, 0.7),
    "devices_before": (1, 0.5),
}  # fmt: skip
RANGES: dict[str, tuple[float, float]] = {  # from the first to the second becomes from -1 to 1
    "category_risk": (0, 4), "customer_age_years": (18, 95), "amount_z_milli": (-4_000, 4_000),
    "night_share_milli": (0, 500), "is_online": (0, 1), "is_transfer": (0, 1), "is_abroad": (0, 1), "is_round": (0, 1),
    "is_new_device": (0, 1), "is_new_country": (0, 1), "is_new_counterparty": (0, 1),
}  # fmt: skip
MINUTE = "minute_of_day"  # a circle: its sine and its cosine
COLUMNS = (DAY, *LOGARITHMS, *RANGES, MINUTE, TARGET)
INPUTS = len(LOGARITHMS) + len(RANGES) + 2


@dataclass
class Table:
    """Payments of one or more banks: ``x`` float32[n, INPUTS] within [-4, 4], ``y`` float32[n], 1 for fraud."""

    x: torch.Tensor
    y: torch.Tensor


@dataclass
class Split:
    """What a model may learn from, and the later payments that it is judged by."""

    train: Table
    held_out: Table


class Net(nn.Module):
    """Two hidden layers, 30-64-32-1; the output is the logit of fraud."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, 64)
        self.second = nn.Linear(64, 32)
        self.out = nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.second(torch.relu(self.first(x))))).squeeze(-1)


def initial_arrays(seed: int) -> "OrderedDict[str, torch.Tensor]":
    """The initial model for ``seed``, by name, as every member can make it again."""
    torch.manual_seed(seed)
    return OrderedDict((name, tensor.detach().clone()) for name, tensor in Net().state_dict().items())


@lru_cache(maxsize=16)  # a node reads its own data once; a comparison holds all banks at a time
def load_split(path: Path, held_out_from_day: int) -> Split:
    """One bank's CSV file, or every ``*.csv`` of a folder: earlier days to learn from, later ones to be judged by."""
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError("no CSV file in the data folder")
    raw = np.concatenate([_read(file) for file in files])
    if not 0 < len(raw) <= ROWS_AT_MOST:
        raise ValueError(f"1 to {ROWS_AT_MOST} rows expected")
    columns = dict(zip(COLUMNS, raw.T, strict=True))
    x, y = torch.from_numpy(_inputs(columns)), torch.from_numpy(columns[TARGET].astype(np.float32))
    later = torch.from_numpy(columns[DAY] >= held_out_from_day)
    return Split(Table(x[~later], y[~later]), Table(x[later], y[later]))


def _read(file: Path) -> np.ndarray:
    """float64[n, len(COLUMNS)], whatever the order of the columns in the file."""
    with file.open(encoding="utf-8") as lines:
        header = lines.readline().strip().split(",")
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise ValueError(f"columns missing: {', '.join(missing)}")
        places = [header.index(name) for name in COLUMNS]
        return np.loadtxt(lines, delimiter=",", usecols=places, ndmin=2, max_rows=ROWS_AT_MOST + 1)


def _inputs(columns: dict[str, np.ndarray]) -> np.ndarray:
    scaled = [(np.log1p(columns[name]) - centre) / spread for name, (centre, spread) in LOGARITHMS.items()]
    scaled += [2 * (columns[name] - low) / (high - low) - 1 for name, (low, high) in RANGES.items()]
    angle = columns[MINUTE] * (2 * np.pi / 1440)
    scaled += [np.sin(angle), np.cos(angle)]
    return np.clip(np.stack(scaled, axis=1), -4.0, 4.0).astype(np.float32)


def train(net: nn.Module, table: Table, *, epochs: int, lr: float, batch: int, weight: float, seed: int) -> float:
    """Adam in an order drawn from ``seed``, each fraud counted ``weight`` times; the mean loss of the last epoch."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    loss_of = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight))
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


@torch.no_grad()
def evaluate(net: nn.Module, table: Table) -> tuple[float, float, float]:
    """Loss, average precision, and the share of frauds found at ``MOST_FALSE_ALARMS``."""
    net.eval()
    scores = net(table.x)
    loss = nn.functional.binary_cross_entropy_with_logits(scores, table.y).item()
    y, s = table.y.numpy() > 0, scores.numpy()
    return loss, average_precision(y, s), recall_at(y, s, MOST_FALSE_ALARMS)


def average_precision(y: np.ndarray, scores: np.ndarray) -> float:
    """Precision at each threshold, weighted by the recall that it adds; ties share one. 0 where there is no fraud."""
    if not y.any():
        return 0.0
    found, flagged = _cumulative(y, scores)
    precision = found / flagged
    added = np.diff(found, prepend=0) / y.sum()
    return float((precision * added).sum())


def recall_at(y: np.ndarray, scores: np.ndarray, most_false_alarms: float) -> float:
    """The largest share of frauds found while at most that share of honest payments is flagged."""
    if not y.any():
        return 0.0
    found, flagged = _cumulative(y, scores)
    allowed = (flagged - found) <= most_false_alarms * (~y).sum()
    return float(found[allowed].max(initial=0) / y.sum())


def _cumulative(y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frauds found and payments flagged when all with at least this score are, for each different score downwards."""
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.append(np.diff(scores[order]) != 0, True)
    return np.cumsum(y[order])[last_of_score], np.flatnonzero(last_of_score) + 1
