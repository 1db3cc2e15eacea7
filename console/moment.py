"""The time that a command speaks of. Trust zone: the member's own machine."""

from __future__ import annotations

from datetime import datetime

from console.documents import present
from console.output import UserError
from trusted.attestation.policies.rules import read_time
from trusted.errors import WireError


def read_moment(at: str) -> datetime:
    """The time that ``at`` spells; now when it is empty.

    Raises:
        UserError: it spells something else.
    """
    if not at:
        return present()
    try:
        return read_time(at, "--at")
    except WireError:
        raise UserError("--at is no time", "Write it in UTC: 2026-01-31T12:00:00Z.") from None
