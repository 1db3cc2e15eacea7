"""What the app's server calls members: a number for each, the same all through a run. Trust zone: aggregator TEE."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.enclave.server_app.asks import NodeId
from trusted.ledger.sampling import lot

_LABEL = "cloister/node-id/v1"


def node_of(seed: bytes, member: str) -> NodeId:
    """Drawn from the run's seed: not 0, not 1, and below 2^53."""
    drawn = lot(seed, _LABEL, 0, member.encode())
    return int.from_bytes(drawn[:8], "big") >> 12 | 1 << 51


def members_by_node(seed: bytes, members: Iterable[str]) -> dict[NodeId, str]:
    """Whom each number means."""
    return {node_of(seed, member): member for member in members}
