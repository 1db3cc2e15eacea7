"""The rows of all sites as tensors, prepared once and shared with forked processes. Trust zone: developer's machine."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from simulations.dataset import Dataset, Rows
from simulations.site_data import SiteData
from simulations.tasks.mapped_rows import MappedRows

_IMAGES = 4  # axes: rows, channels, height, width


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns the module sees and which it is to predict. One feature column is taken as it is; several columns
    of one number each stand side by side in the order given."""

    features: tuple[str, ...]
    label: str

    def of(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Features, float32[rows, …], and labels: int64 if they are whole numbers, else float32."""
        parts = [rows[name] for name in self.features]
        features = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
        return _tensor(features, np.float32), _tensor(rows[self.label], _label_dtype(rows[self.label]))


@dataclass(frozen=True, slots=True)
class SiteTensors:
    """Features and labels of all sites, site after site.

    Attributes:
        features, labels: of all rows; site ``i`` has ``starts[i]:starts[i + 1]``.
        poisoned: by place, the rows of sites that train on others than their own.
        channels_last: whether a site gets its images with their channels innermost.
        files: in which features and labels lie, where they do.
    """

    features: Tensor
    labels: Tensor
    starts: NDArray[np.int64]
    poisoned: dict[int, tuple[Tensor, Tensor]]
    channels_last: bool = False
    files: tuple[MappedRows, ...] = ()

    @classmethod
    def of(cls, data: SiteData, columns: Columns, *, channels_last: bool = False) -> SiteTensors:
        """Copied into the order of the sites, unless they lie in it already: then seen where they lie.

        Raises:
            ValueError: no such column.
        """
        names = [*columns.features, columns.label]
        given = {name: data.dataset.column(name) for name in names}
        partition, starts = data.partition, data.partition.starts
        taken: Any = slice(partition.size) if partition.lies_in_order else partition.order
        given = {name: column[taken] for name, column in given.items()}
        features, labels = columns.of(given)
        poisoned = {site: columns.of(data.rows(site)) for site in data.poisons}
        files = [MappedRows.of(column) for column in given.values() if _is_seen_by(column, (features, labels))]
        return cls(features, labels, starts, poisoned, channels_last, tuple(file for file in files if file is not None))

    def of_site(self, site: int) -> tuple[Tensor, Tensor]:
        """Features and labels of the site at this place; views, but for images with their channels innermost."""
        if site in self.poisoned:
            features, labels = self.poisoned[site]
        else:
            start, end = int(self.starts[site]), int(self.starts[site + 1])
            features, labels = self.features[start:end], self.labels[start:end]
        if self.channels_last and features.dim() == _IMAGES:
            features = features.contiguous(memory_format=torch.channels_last)
        return features, labels

    def release(self, site: int) -> None:
        """The site has trained: its rows need no memory where a file has them."""
        for file in self.files:
            file.release(int(self.starts[site]), int(self.starts[site + 1]))

    def __reduce__(self) -> tuple[Any, ...]:
        """As arrays, which pickle and Ray carry without a copy."""
        poisoned = {site: (rows.numpy(), marks.numpy()) for site, (rows, marks) in self.poisoned.items()}
        settings = self.channels_last, self.starts, poisoned
        return _restore, (self.features.numpy(), self.labels.numpy(), *settings)


def _restore(features: Any, labels: Any, channels_last: bool, starts: Any, poisoned: Any) -> SiteTensors:
    tensors = {site: (_tensor(rows), _tensor(marks)) for site, (rows, marks) in poisoned.items()}
    return SiteTensors(_tensor(features), _tensor(labels), starts, tensors, channels_last)


def _is_seen_by(column: NDArray[Any], tensors: Sequence[Tensor]) -> bool:
    """Whether one of the ``tensors`` is ``column`` itself, and no copy."""
    return any(tensor.data_ptr() == column.ctypes.data for tensor in tensors)


def held_out(dataset: Dataset | None, columns: Columns) -> tuple[Tensor, Tensor] | None:
    """Features and labels of the rows that no site has."""
    if dataset is None:
        return None
    return columns.of({name: dataset.column(name) for name in (*columns.features, columns.label)})


@dataclass(frozen=True, slots=True)
class SiteBatch:
    """What is to be trained for one site.

    Attributes:
        orders: for each epoch int64[rows], the order of the rows, or None: as they lie.
        seed: for what the module itself draws, such as dropout.
    """

    features: Tensor
    labels: Tensor
    orders: Sequence[Tensor | None]
    seed: int = 0

    @classmethod
    def drawn(cls, rows: tuple[Tensor, Tensor], rng: Generator, *, epochs: int, shuffle: bool) -> SiteBatch:
        """``rows`` in an order that follows from ``rng``, one for each epoch."""
        seed = int(rng.integers(1 << 62))
        orders: list[Tensor | None] = [None] * epochs
        if shuffle:
            orders = [torch.from_numpy(rng.permutation(len(rows[0]))) for _ in range(epochs)]
        return cls(*rows, orders, seed)


def batches(rows: int, size: int, epochs: int) -> list[tuple[int, int, int]]:
    """Epoch, first row and end of each step; the last of an epoch may be smaller."""
    return [(epoch, low, min(low + size, rows)) for epoch in range(epochs) for low in range(0, rows, size)]


def _tensor(column: NDArray[Any], dtype: Any = None) -> Tensor:
    array = np.asarray(column, dtype)
    if not array.flags.writeable:  # a mapped file, or Ray's store: nothing here writes to rows
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(array)
    return torch.from_numpy(array)


def _label_dtype(column: NDArray[Any]) -> Any:
    return np.int64 if np.issubdtype(column.dtype, np.integer) or column.dtype == np.bool_ else np.float32
