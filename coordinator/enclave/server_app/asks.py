"""What an app's server may ask of the aggregator, and what it is answered. Trust zone: aggregator TEE.

Rules: one thing at a time. The app takes its *turn* between an answer and its next ask; while an ask is open it waits.
Whoever asks runs the members' code and may ask anything: each ask is held against the exchange that is open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from trusted.encoding import Vector
from trusted.errors import Reason

NodeId = int


@dataclass(frozen=True, slots=True)
class Nodes:
    """Who is there?"""


@dataclass(frozen=True, slots=True)
class Offer:
    """This is a message, for whoever a later :class:`Send` says: of the plan's message size."""

    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Send:
    """Send messages: to each node the offered one with this number. ``timeout_s``: None, the plan's alone."""

    to: tuple[tuple[NodeId, int], ...]
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Collect:
    """Wait for the end of ``exchange``."""

    exchange: int


@dataclass(frozen=True, slots=True)
class Pull:
    """The answer of ``node`` in ``exchange``, which has ended; once."""

    exchange: int
    node: NodeId


@dataclass(frozen=True, slots=True)
class Finished:
    """The app's server is done. ``model``: float32[elements] in the plan's layout, unchecked."""

    model: Vector = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """The app's server is gone, or was ended, for ``reason``."""

    reason: Reason


Ask = Nodes | Offer | Send | Collect | Pull | Finished | Failed


@dataclass(frozen=True, slots=True)
class Begin:
    """Run. ``model``: the plan's initial one, float32[elements]."""

    model: Vector = field(repr=False)


@dataclass(frozen=True, slots=True)
class Here:
    """These nodes are there."""

    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Offered:
    """The message is sealed, under this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Sent:
    """The messages are on their way, as this exchange."""

    exchange: int


@dataclass(frozen=True, slots=True)
class Collected:
    """The exchange has ended, and it is witnessed whose answers count; of the others is said why not."""

    counted: tuple[NodeId, ...]
    lost: tuple[tuple[NodeId, Reason], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a node answered, as :mod:`trusted.apps.messages` parses it; None: the host lost it since."""

    content: bytes | None = field(repr=False)


Answer = Begin | Here | Offered | Sent | Collected | Reply


class ServerApp(Protocol):
    """A child in which an app's server runs.

    ``component`` and ``flower`` say what was loaded, and by which version of flwr.
    """

    component: str
    flower: str

    def turn(self, answer: Answer) -> Ask:
        """Answer the last ask (or let it begin), and wait for the next; blocks for the plan's ``turn_s`` at most.

        Raises nothing: a child that is gone, or takes too long, has :class:`Failed`.
        """

    def stop(self) -> None:
        """End it now; a ``turn`` that waits returns. May be called twice."""
