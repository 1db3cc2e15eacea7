"""How much of the runtime one connection may use. Trust zone: recipient TEE's shell. They protect liveness alone."""

from __future__ import annotations

from dataclasses import dataclass

from trusted.wire import MAX_RECORD_BYTES

MAX_MESSAGE_BYTES = MAX_RECORD_BYTES + (64 << 10)


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Every bound of the port. Each names what it stops."""

    sessions: int = 256  # memory for sessions of everybody
    streams_per_connection: int = 16  # one connection taking all of them
    connections: int = 512  # descriptors for who connects and says nothing
    connect_s: float = 20.0  # connections that never finish TLS
    handshake_s: float = 60.0  # streams that are opened and left
    idle_s: float = 300.0  # sessions that ask nothing
    stall_s: float = 30.0  # a reader that takes no answer
    proofs_per_s: float = 4.0  # evidence that anybody can ask for, for long
    proofs_at_once: int = 64  # and for a moment
    drain_s: float = 4.0  # an end that waits for a request under way
