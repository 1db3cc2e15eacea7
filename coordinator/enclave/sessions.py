"""Which connection of the aggregator is which session of which door. Trust zone: aggregator TEE's shell.

Each door numbers its own sessions, and any of them may lie about the numbers; here every session has one number that
no other ever had.
"""

from __future__ import annotations

from coordinator.enclave.doors import Link


class Sessions:
    """The sessions that are attached now."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Link, int], int] = {}
        self._places: dict[int, tuple[Link, int]] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def attach(self, link: Link, channel: int) -> int:
        """The number of a session that this door announces; the same again if it announces it twice."""
        number = self._numbers.get((link, channel))
        if number is None:
            number = self._last = self._last + 1
            self._numbers[link, channel] = number
            self._places[number] = link, channel
        return number

    def find(self, link: Link, channel: int) -> int | None:
        """The number of the session that this door calls ``channel``."""
        return self._numbers.get((link, channel))

    def place_of(self, number: int) -> tuple[Link, int] | None:
        """The link and channel of a session; None when it is over."""
        return self._places.get(number)

    def detach(self, link: Link, channel: int) -> int | None:
        """Forget a session; its number."""
        number = self._numbers.pop((link, channel), None)
        if number is not None:
            del self._places[number]
        return number

    def drop(self, link: Link) -> tuple[int, ...]:
        """Forget every session of a link; their numbers."""
        channels = [channel for where, channel in self._numbers if where is link]
        return tuple(number for channel in channels if (number := self.detach(link, channel)) is not None)
