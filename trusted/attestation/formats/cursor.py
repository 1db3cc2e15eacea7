"""A strict reader of binary structures: no byte is skipped, none is read twice. Trust zone: every TEE."""

from __future__ import annotations

from typing import Literal

from trusted.errors import AttestationError, ProtocolError, Reason


class Cursor:
    """Reads ``data`` from front to back; ``name`` leads the errors. Whoever wrote the bytes may be lying."""

    def __init__(self, data: bytes, name: str, order: Literal["big", "little"]) -> None:
        self._data = data
        self._name = name
        self._order = order
        self._position = 0

    def octets(self, size: int, field: str) -> bytes:
        """The next ``size`` bytes.

        Raises:
            AttestationError: EVIDENCE_FORMAT, fewer are left.
        """
        end = self._position + size
        if end > len(self._data):
            raise self.error(f"{field}: cut short")
        content = self._data[self._position : end]
        self._position = end
        return content

    def number(self, size: int, field: str) -> int:
        """An unsigned number of ``size`` bytes in the structure's byte order."""
        return int.from_bytes(self.octets(size, field), self._order)

    def sized(self, size: int, field: str, *, most: int) -> bytes:
        """As many bytes as the number of ``size`` bytes before them says, at most ``most``."""
        length = self.number(size, field)
        if length > most:
            raise self.error(f"{field}: at most {most} bytes expected")
        return self.octets(length, field)

    def expect(self, size: int, value: int, field: str) -> None:
        """The number that must stand here and no other."""
        if self.number(size, field) != value:
            raise self.error(f"{field}: {value:#x} expected")

    @property
    def position(self) -> int:
        """How many bytes have been read."""
        return self._position

    @property
    def left(self) -> int:
        """How many bytes are still unread."""
        return len(self._data) - self._position

    def end(self) -> None:
        """Nothing is left over."""
        if self.left:
            raise self.error("bytes left over at the end")

    def error(self, rule: str) -> ProtocolError:
        """A refusal of this structure."""
        return AttestationError(Reason.EVIDENCE_FORMAT, f"{self._name}.{rule}")
