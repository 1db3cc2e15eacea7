"""Exchanges that have ended, and whose answers the app's server has not taken yet. Trust zone: aggregator TEE. No I/O.

Rules: answers stay sealed at the host until they are asked for, one by one, once; an exchange is forgotten with its
last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.enclave.fold import Contribution
from coordinator.enclave.server_app.asks import Collected, NodeId
from trusted.errors import Reason


@dataclass(frozen=True, slots=True)
class _Ended:
    told: Collected
    answers: dict[NodeId, Contribution]


@dataclass(slots=True)
class EndedExchanges:
    """By number."""

    _ended: dict[int, _Ended] = field(default_factory=dict)

    def keep(self, number: int, answers: Mapping[NodeId, Contribution], lost: Mapping[NodeId, Reason]) -> None:
        """The exchange ``number`` has ended: with these answers, and without those."""
        told = Collected(tuple(sorted(answers)), tuple(sorted(lost.items())))
        self._ended[number] = _Ended(told, dict(answers))

    def collect(self, number: int) -> Collected | None:
        """What is told of the exchange ``number``; None: it has not ended, or all of it was taken."""
        ended = self._ended.get(number)
        if ended is None:
            return None
        self._forget(number, ended)
        return ended.told

    def take(self, number: int, node: NodeId) -> Contribution | None:
        """The answer of ``node``, once; None: there is none, or not any more."""
        ended = self._ended.get(number)
        if ended is None or node not in ended.answers:
            return None
        taken = ended.answers.pop(node)
        self._forget(number, ended)
        return taken

    def _forget(self, number: int, ended: _Ended) -> None:
        if not ended.answers:
            del self._ended[number]

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """Of all answers that nobody has taken."""
        return tuple(entry.blob for ended in self._ended.values() for entry in ended.answers.values())
