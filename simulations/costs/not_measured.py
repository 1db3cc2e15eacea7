"""What is told when a cost could not be measured. Trust zone: the developer's machine."""

from __future__ import annotations


class NotMeasured(Exception):
    """Nothing could be measured. ``hint`` says what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
