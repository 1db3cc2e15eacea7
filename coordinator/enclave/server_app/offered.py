"""What an exchange sends: each content sealed once, and who gets which. Trust zone: aggregator TEE. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.enclave.record import SealedVector
from trusted.wire import sha256


@dataclass(slots=True)
class OfferedMessages:
    """The messages of one exchange: ``offered`` as they were sealed, with their prefixes; ``to`` by member."""

    offered: list[tuple[SealedVector, bytes]] = field(default_factory=list)
    to: dict[str, int] = field(default_factory=dict)

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """Their names."""
        return tuple(sealed.blob for sealed, _ in self.offered)

    def of(self, member: str) -> SealedVector:
        """What ``member`` gets."""
        return self.offered[self.to[member]][0]

    def prefix_sha256(self) -> bytes:
        """What the log names them by: of one content its prefix, as of a model; else of all, by member."""
        if len(set(self.to.values())) == 1:
            return self.offered[next(iter(self.to.values()))][1]
        return sha256(b"".join(self.offered[place][1] for _, place in sorted(self.to.items())))
