"""Numbers that a behaviour was given, held against what they may be. Trust zone: the developer's machine."""

from __future__ import annotations


def require_within(behaviour: str, what: str, value: float, low: float, high: float) -> None:
    """``value`` is from ``low`` to ``high``.

    Raises:
        ValueError: it is not; the message says what it is of and what it may be.
    """
    if not low <= value <= high:
        raise ValueError(f"behaviour {behaviour}: {what} from {low:g} to {high:g} expected, not {value}")
