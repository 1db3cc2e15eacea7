"""What the aggregator wants done, as values: the shell does it. Trust zone: aggregator TEE.

Everything in an :class:`Emit` is public: the host stores and shows it (docs/protocol.md §11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trusted.errors import Reason


@dataclass(frozen=True, slots=True)
class Send:
    """Pass a frame to the worker at the other end of a connection."""

    connection: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """End a connection. The refusal frame, if any, went before."""

    connection: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell the host a public event."""

    event: str
    fields: Mapping[str, Any]


Effect = Send | Close | Emit
