"""Looking for hundreds of patterns in hundreds of megabytes, in about a second for each hundred megabytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tests.canary.needles import Pattern

_BLOCK_BYTES = 8 << 20
_KEY = 4


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """A pattern that stands where it must not: which needle, in which form, in what, and where. Never its value."""

    source: str
    offset: int
    needle: str
    form: str


class Search:
    """Finds each pattern at every alignment.

    Of each pattern the four most telling bytes are its key. Two tables say of each pair of bytes whether it begins or
    ends a key; what passes both is compared whole. No chance match is reported, and nothing is missed.
    """

    def __init__(self, patterns: Iterable[Pattern], *, block_bytes: int = _BLOCK_BYTES) -> None:
        self._block_bytes = block_bytes
        self.patterns = tuple(dict.fromkeys(patterns))
        if not self.patterns:
            raise ValueError("search: no patterns")
        self._first = np.zeros(1 << 16, dtype=bool)
        self._second = np.zeros(1 << 16, dtype=bool)
        self._by_key: dict[bytes, list[tuple[int, Pattern]]] = {}
        for pattern in self.patterns:
            at = _most_telling(pattern.data)
            key = pattern.data[at : at + _KEY]
            self._by_key.setdefault(key, []).append((at, pattern))
            self._first[int.from_bytes(key[:2], "little")] = True
            self._second[int.from_bytes(key[2:], "little")] = True
        self._overlap = max(len(pattern.data) for pattern in self.patterns) + _KEY

    def find(self, sources: Mapping[str, bytes]) -> list[Found]:
        """Every place where a pattern stands, by source and offset."""
        return sorted(found for source, data in sources.items() for found in self._find(source, data))

    def _find(self, source: str, data: bytes) -> set[Found]:
        found: set[Found] = set()
        for start in range(0, len(data), self._block_bytes):
            end = min(len(data), start + self._block_bytes + self._overlap)
            for position in self._candidates(data, start, end):
                for at, pattern in self._by_key.get(data[position : position + _KEY], ()):
                    place = position - at
                    if place >= 0 and data.startswith(pattern.data, place):
                        found.add(Found(source, place, pattern.needle, pattern.form))
        return found

    def _candidates(self, data: bytes, start: int, end: int) -> Iterable[int]:
        for offset in (start, start + 1):
            count = (end - offset) // 2
            if count < 2:
                continue
            pairs = np.frombuffer(data, dtype="<u2", count=count, offset=offset)
            begins = np.flatnonzero(self._first[pairs[:-1]])
            keys = begins[self._second[pairs[begins + 1]]]
            yield from (offset + 2 * keys).tolist()


def _most_telling(data: bytes) -> int:
    """Where four bytes stand that differ most and hold no zero: most of memory is zeros."""

    def worth(at: int) -> tuple[bool, int]:
        key = data[at : at + _KEY]
        return 0 not in key, len(set(key))

    return max(range(len(data) - _KEY + 1), key=worth)


def names(found: Iterable[Found]) -> set[str]:
    """The needles that were found."""
    return {item.needle for item in found}
