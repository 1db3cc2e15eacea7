"""A simulation of a Flower app, in plain values, as a person writes it. Trust zone: developer's machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from console.app_terms import read_settings
from console.folding import Folding
from console.privacy import read_mechanism
from simulations.dataset import Dataset
from simulations.named import read_behaviours, read_partition
from simulations.partition import Partition
from simulations.simulation import Simulation
from simulations.tasks.app import App

SOURCE = "site"
_EVERYTHING = "all"
_MAX_WEIGHT = 1_000_000.0
_TABLES = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What to simulate.

    Attributes:
        app: the app's folder.
        data: CSV or Parquet files, or folders of them; of several, the column ``site`` says which file a row is from.
        label: the column that partitions by label and label attacks mean.
        partition: as :func:`read_partition` takes it; empty: by file where there are several, else mixed.
        sites: how many, where the partition does not say; 0: ten.
        cohort, minimum: 0: all; as few as the rule needs.
        held_out: the share of rows that no site has, to judge models by; ``all``: the app itself holds rows out, so
            that every row is shown to it; ``0``: nothing is judged.
        config: over the app's run config.
        behaviours: as :func:`read_behaviours` takes them.
        admission: whether sites are attested and admitted, and everything sealed.
    """

    app: str
    data: tuple[str, ...]
    label: str = ""
    partition: str = ""
    sites: int = 0
    cohort: int = 0
    minimum: int = 0
    rounds: int = 10
    rule: str = "weighted-mean"
    false_sites: int = 0
    kept: int = 0
    server: str = ""
    proximal_mu: float = 0.0
    privacy: str = ""
    held_out: str = "0.2"
    config: tuple[str, ...] = ()
    initial: str = ""
    behaviours: tuple[str, ...] = ()
    engine: str = "pool"
    evaluate_every: int = 1
    admission: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> AppSettings:
        """From JSON, where lists stand for tuples.

        Raises:
            ValueError: a setting that there is not.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ValueError(f"settings: there is no {unknown[0]!r}; there are {', '.join(sorted(known))}")
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """As :meth:`of` takes them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def rows(self) -> Dataset:
        """All rows.

        Raises:
            ValueError: no such file or column, or files that differ.
        """
        paths = [path for given in self.data for path in _tables(Path(given))]
        if len(paths) > 1 and all(path.suffix == ".csv" for path in paths):
            return Dataset.from_csvs(paths, label=self.label, source=SOURCE)
        if len(paths) != 1:
            raise ValueError("data: one table, or several CSV files expected; join Parquet files first")
        read = Dataset.from_parquet if paths[0].suffix == ".parquet" else Dataset.from_csv
        return read(paths[0], label=self.label)

    def divided(self, seed: int) -> tuple[Dataset, Dataset | None, Partition]:
        """The rows for sites, those that judge, and who has which of the former.

        Raises:
            ValueError: in one sentence, what does not fit.
        """
        whole = self.rows()
        kept, held_out = self._split(whole, seed)
        named = self.partition or (f"by_column:{SOURCE}" if SOURCE in whole.columns else "iid")
        return kept, held_out, read_partition(named, kept, self.sites or 10, seed)

    def simulation(self, seed: int) -> Simulation:
        """The simulation, ready to run.

        Raises:
            ValueError, UserError, ProtocolError: in one sentence, what does not fit.
        """
        dataset, held_out, partition = self.divided(seed)
        private = read_mechanism(self.privacy, "") if self.privacy else None
        cohort = self.cohort or len(partition)
        folding = Folding(
            self.rule, self.false_sites or None, self.kept or None, self.server or None, self.proximal_mu or None
        )
        return Simulation(
            App(
                Path(self.app),
                initial=Path(self.initial) if self.initial else None,
                config=read_settings(self.config),
            ),
            dataset,
            partition,
            rounds=self.rounds,
            cohort=cohort,
            minimum=self.minimum or None,
            aggregation=folding.to_json(_MAX_WEIGHT if private is None else 1, self.minimum or cohort),
            privacy=private,
            held_out=held_out,
            behaviours=[
                behaviour
                for text in self.behaviours
                for behaviour in read_behaviours(text, dataset, names=partition.names, seed=seed)
            ],
            engine=self.engine,
            seed=seed,
            evaluate_every=self.evaluate_every,
            admission=self.admission,
        )

    def _split(self, whole: Dataset, seed: int) -> tuple[Dataset, Dataset | None]:
        if self.held_out == _EVERYTHING:
            return whole, whole
        try:
            share = float(self.held_out)
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            raise ValueError(f"held_out: a share of the rows from 0 to below 1, or {_EVERYTHING!r}, expected")
        order = np.random.default_rng([seed, 0x5EED]).permutation(len(whole)).astype(np.int64)
        cut = round(len(whole) * share)
        held_out = Dataset(whole.take(np.sort(order[:cut])), whole.label) if cut else None
        return (Dataset(whole.take(np.sort(order[cut:])), whole.label) if cut else whole), held_out


def measure_app(settings: Mapping[str, Any]) -> dict[str, float]:
    """One point of a sweep: the final metrics, the share of rounds that were committed, and the seconds here."""
    values = dict(settings)
    seed = int(values.pop("seed"))
    result = AppSettings.of(values).simulation(seed).run()
    committed = [row for row in result.rounds if row.abandoned is None]
    found = {name: float(value) for name, value in result.final.items()}
    found["committed"] = len(committed) / max(1, len(result.rounds))
    found["seconds"] = sum(sum(row.wall_s.values()) for row in result.rounds)
    if committed and committed[-1].epsilon is not None:
        found["epsilon"] = committed[-1].epsilon
    return found


def _tables(path: Path) -> list[Path]:
    """A file, or the tables of a folder, by name.

    Raises:
        ValueError: there is none.
    """
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if each.suffix in _TABLES)
        if not found:
            raise ValueError(f"data: {path} has no {' or '.join(_TABLES)} file")
        return found
    if path.suffix not in _TABLES:
        raise ValueError(f"data: {path}: a {' or '.join(_TABLES)} file, or a folder of them, expected")
    return [path]
