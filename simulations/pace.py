"""How long things take on the virtual clock. Trust zone: the developer's machine.

What this machine happens to need is no part of it: a simulation gives the same rounds on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Of an ordinary site: its training, and its link to the coordinator."""

    seconds_per_row: float = 1e-3
    latency_s: float = 0.05
    down_bytes_per_s: float = 12.5e6
    up_bytes_per_s: float = 12.5e6

    def seconds(self, rows: int, down_bytes: int, up_bytes: int) -> float:
        """From the opening of a round to a site's answer."""
        links = down_bytes / self.down_bytes_per_s + up_bytes / self.up_bytes_per_s
        return 2 * self.latency_s + links + rows * self.seconds_per_row

    def to_json(self) -> dict[str, float]:
        """For a result's settings."""
        return {name: getattr(self, name) for name in self.__slots__}
