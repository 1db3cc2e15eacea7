"""``grant.scoring``: how much a scoring service answers. Trust zone: every TEE.

A model that answers questions leaks through its answers. Who runs a service may ask for less than this; only the member
that grants the key can bind it to less, because whoever runs it is its host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trusted.documents.schema import rule
from trusted.wire import Fields

MAX_ROWS = 1 << 16
MAX_REQUESTS = 1_000_000_000
_MAX_PER_MINUTE = 100_000


@dataclass(frozen=True, slots=True)
class ScoringLimits:
    """How much one service answers.

    Attributes:
        rows_per_request: memory, and the size of the largest answer.
        requests_per_minute: of one client: extraction of the model, and membership inference, take many questions.
        requests_total: of everybody, from one release of the key on: what a key that is released once can ever answer.
    """

    rows_per_request: int = 512
    requests_per_minute: int = 60
    requests_total: int = 100_000

    def __post_init__(self) -> None:
        """Hold the bounds, whoever made the object.

        Raises:
            DocumentError: DOCUMENT_RULE.
        """
        bounds = {"rows_per_request": MAX_ROWS, "requests_per_minute": _MAX_PER_MINUTE, "requests_total": MAX_REQUESTS}
        for name, high in bounds.items():
            rule(1 <= getattr(self, name) <= high, f"scoring.{name}", f"1 to {high} expected")

    def stricter(self, other: ScoringLimits) -> ScoringLimits:
        """What both allow."""
        return ScoringLimits(*(min(getattr(self, name), getattr(other, name)) for name in self.__slots__))

    @classmethod
    def read(cls, value: Any, name: str = "scoring") -> ScoringLimits:
        """The limits in a JSON object.

        Raises:
            WireError, DocumentError: a field is missing, unknown or out of bounds.
        """
        with Fields(value, name) as fields:
            return cls(*(fields.integer(key, low=1, high=MAX_REQUESTS) for key in cls.__slots__))

    def to_json(self) -> dict[str, int]:
        """The object of docs/protocol.md §16."""
        return {name: getattr(self, name) for name in self.__slots__}
