"""The refusal frame: one reason number, and nothing else for the other side to learn (docs/protocol.md §4)."""

from __future__ import annotations

from trusted.channel.states import Kind
from trusted.errors import ChannelError, Reason
from trusted.wire import exactly, pack, unpack


class PeerRefused(ChannelError):
    """The other side, or a host that pretends to be it, ended the session. ``peer_reason`` is a hint, not a fact."""

    def __init__(self, peer_reason: Reason) -> None:
        super().__init__(Reason.PEER_REFUSED, f"the other side says {peer_reason.code} {peer_reason.name}")
        self.peer_reason = peer_reason


def refusal(reason: Reason) -> bytes:
    """The frame that tells a peer why it is refused."""
    return pack(Kind.REFUSE.value, int(reason).to_bytes(2, "big"))


def read_refusal(frame: bytes) -> PeerRefused:
    """The refusal that ``frame`` carries. Anybody on the way may have written it."""
    (number,) = unpack(frame, Kind.REFUSE.value, 1)
    try:
        return PeerRefused(Reason(int.from_bytes(exactly(number, 2, "refuse.reason"), "big")))
    except ValueError:
        raise ChannelError(Reason.MALFORMED, "refuse.reason: no such reason") from None
