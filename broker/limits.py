"""How much of a broker one peer may use. Trust zone: the member's own. These protect liveness, and no key."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.host.limits import Limits
from trusted.attestation.composite import MAX_BUNDLE_BYTES

_ROOM_BYTES = 64 << 10  # beside the evidence: keys, a credential, a signature


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """Every bound, and what it stops. A member's TEEs are few: what serves hundreds of strangers serves nobody."""

    exchanges_per_s: float = 2.0  # of one address for long: evidence to verify without end
    exchanges_at_once: int = 32  # and for a moment: all workers of a member that restart together
    exchanges_per_peer: int = 8  # streams of one address that are opened and left
    exchange_s: float = 90.0  # the same; slow evidence takes seconds
    verifications: int = 2  # processor time: so many are verified at a time, the others wait
    streams: int = 64  # of all peers at a time
    connections: int = 256  # descriptors and memory for peers that connect and say nothing
    connect_s: float = 20.0  # connections that never finish TLS
    frame_bytes: int = MAX_BUNDLE_BYTES + _ROOM_BYTES  # evidence of any size

    def of_host(self) -> Limits:
        """The same bounds, as the gate of a host asks for them."""
        return Limits(
            attaches_per_s=self.exchanges_per_s,
            attaches_at_once=self.exchanges_at_once,
            handshakes_per_peer=self.exchanges_per_peer,
        )

    def options(self) -> tuple[tuple[str, int], ...]:
        """What gRPC itself refuses, before this process's Python hears of it."""
        return (
            ("grpc.max_receive_message_length", self.frame_bytes + 64),
            ("grpc.max_concurrent_streams", self.exchanges_per_peer),
            ("grpc.max_allowed_incoming_connections", self.connections),
            ("grpc.server_handshake_timeout_ms", round(self.connect_s * 1000)),
            ("grpc.max_connection_idle_ms", round(self.exchange_s * 1000)),
            ("grpc.so_reuseport", 0),  # a second broker on the port is an error, not half of the askers
        )
