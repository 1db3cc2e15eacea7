"""Who behaves how, asked by the loop. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from numpy.random import Generator

from simulations.behaviour import Behaviour, Sight
from simulations.dice import NOBODY, Dice
from simulations.site_data import sites_of
from trusted.encoding import Vector

_WHAT = ("attends", "answers", "slows", "forges")  # one does not move the dice of another


@dataclass(frozen=True, slots=True)
class _Part:
    """One behaviour, at its sites, with dice of its own."""

    behaviour: Behaviour
    places: frozenset[int]
    dice: Mapping[str, Dice]

    def at(self, what: str, number: int, site: int = NOBODY) -> Generator:
        return self.dice[what].at(number, site)


class Cast:
    """All behaviours of a simulation, in the order in which they were given.

    Raises:
        ValueError: two of one name, a name that is no site, or a share outside 0 to 1.
    """

    def __init__(self, behaviours: Sequence[Behaviour], names: Sequence[str], seed: int) -> None:
        known = [behaviour.name for behaviour in behaviours]
        twice = next((name for place, name in enumerate(known) if name in known[:place]), None)
        if twice is not None:
            raise ValueError(f"behaviours: two are called {twice!r}; give each a name of its own")
        self._names = names
        self._parts = [
            _Part(
                each,
                frozenset(sites_of(each, names, seed)),
                {what: Dice(seed, f"behaviour {each.name}: {what}") for what in _WHAT},
            )
            for each in behaviours
        ]

    @property
    def forges(self) -> bool:
        """Whether somebody may send something else than it trained, of which it sees what others send."""
        return any(part.behaviour.forges is not None for part in self._parts)

    def present(self, number: int) -> Sequence[str]:
        """Who is there when round ``number`` opens, in the order of the partition."""
        gone: set[int] = set()
        for part in self._parts:
            attends = part.behaviour.attends
            if attends is not None:
                gone |= {site for site in part.places if not attends(number, part.at("attends", number, site))}
        return [name for place, name in enumerate(self._names) if place not in gone] if gone else self._names

    def answers(self, number: int, site: int) -> bool:
        """Whether ``site``, which was drawn, does the work."""
        for part in self._of(site):
            answers = part.behaviour.answers
            if answers is not None and not answers(number, part.at("answers", number, site)):
                return False
        return True

    def seconds(self, number: int, site: int, seconds: float, size_bytes: int) -> float:
        """How long the answer of ``site``, ``size_bytes`` long, takes."""
        for part in self._of(site):
            if part.behaviour.slows is not None:
                seconds = part.behaviour.slows(seconds, size_bytes, part.at("slows", number, site))
        return seconds

    def claimed(self, site: int, rows: int) -> int:
        """On how many rows ``site`` says that it trained."""
        for part in self._of(site):
            if part.behaviour.claims is not None:
                rows = part.behaviour.claims(rows)
        return rows

    def forge(self, number: int, sites: Sequence[int], updates: Sequence[Vector], step: Vector) -> set[int]:
        """Overwrite what false sites send: ``updates`` of ``sites``. Returns the places in it that were forged.

        Raises:
            ValueError: a behaviour does not give one vector of the model's length for each of its sites.
        """
        forged: set[int] = set()
        for part in self._parts:
            forges, own = part.behaviour.forges, [at for at, site in enumerate(sites) if site in part.places]
            if forges is None or not own:
                continue
            others = [updates[at] for at, site in enumerate(sites) if site not in part.places]
            sight = Sight(number, [updates[at] for at in own], others, step, part.at("forges", number))
            made = [vector.copy() for vector in forges(sight)]
            if len(made) != len(own) or any(vector.shape != step.shape for vector in made):
                raise ValueError(f"behaviour {part.behaviour.name}: one vector of the model for each site expected")
            for at, vector in zip(own, made, strict=True):
                updates[at][:] = vector
            forged.update(own)
        return forged

    def _of(self, site: int) -> Iterable[_Part]:
        return (part for part in self._parts if site in part.places)
