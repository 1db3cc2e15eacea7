"""What each site trains on, poisons included. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from simulations.behaviour import Behaviour, Poisons, Probes
from simulations.dataset import Dataset, Rows
from simulations.dice import Dice
from simulations.partition import Partition


@dataclass(frozen=True, slots=True)
class SiteData:
    """The rows of every site, as a task asks for them, and those by which a model is judged.

    Attributes:
        held_out: rows that no site has; None where there are none.
        seed: the simulation's.
        poisons: by place of the site, what its behaviours do to its rows, by the behaviour's name and in order.
        probes: by the behaviour's name, what makes of ``held_out`` the rows on which an attack shows.
    """

    dataset: Dataset
    partition: Partition
    held_out: Dataset | None = None
    seed: int = 0
    poisons: Mapping[int, Sequence[tuple[str, Poisons]]] = field(default_factory=dict)
    probes: Mapping[str, Probes] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        partition: Partition,
        held_out: Dataset | None,
        seed: int,
        behaviours: Sequence[Behaviour],
    ) -> SiteData:
        """With the poisons of ``behaviours`` at their sites.

        Raises:
            ValueError: the partition names a row that is not there, or a behaviour a site.
        """
        if not partition.fits(len(dataset)):
            raise ValueError(f"partition: rows from 0 to {len(dataset) - 1} expected, as the dataset has them")
        poisons: dict[int, list[tuple[str, Poisons]]] = {}
        for behaviour in behaviours:
            if behaviour.poisons is not None:
                for site in sites_of(behaviour, partition.names, seed):
                    poisons.setdefault(site, []).append((behaviour.name, behaviour.poisons))
        probes = {behaviour.name: behaviour.probes for behaviour in behaviours if behaviour.probes is not None}
        return cls(dataset, partition, held_out, seed, poisons, probes)

    def rows(self, site: int) -> Rows:
        """What the site at this place trains on, the same in every round: copied, so keep it."""
        return self.poisoned(site, self.dataset.take(self.partition.rows(site)))

    def poisoned(self, site: int, rows: Rows) -> Rows:
        """What the site's behaviours make of ``rows``."""
        for name, poison in self.poisons.get(site, ()):
            rows = poison(rows, Dice(self.seed, f"behaviour {name}: poisons").at(0, site))
        return rows

    def probed(self) -> Mapping[str, Rows]:
        """Rows on which attacks show, by behaviour; none without held-out rows."""
        if self.held_out is None:
            return {}
        return {name: probe(self.held_out.columns) for name, probe in self.probes.items()}


def sites_of(behaviour: Behaviour, names: Sequence[str], seed: int) -> list[int]:
    """Places of the sites that behave so.

    Raises:
        ValueError: as :meth:`Behaviour.chosen`.
    """
    return [int(place) for place in behaviour.chosen(names, Dice(seed, f"behaviour {behaviour.name}: sites").at(0))]
