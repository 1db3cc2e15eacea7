"""Strict reading of one CBOR map of claims: each is asked for once, with its type, and none is left over.

Trust zone: every TEE. It is what ``trusted.wire.Fields`` is for JSON.
"""

from __future__ import annotations

from typing import NoReturn

from trusted.attestation.formats.cbor import Value
from trusted.errors import AttestationError, Reason


class ClaimMap:
    """``with ClaimMap(value, "document") as claims: nonce = claims.octets("nonce", "nonce", (0, 512))``"""

    def __init__(self, value: Value, what: str) -> None:
        self._what = what
        if not isinstance(value, dict):
            self.refuse("a map expected")
        self._value: dict[int | str, Value] = dict(value)

    def __enter__(self) -> ClaimMap:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._value:
            self.refuse("a claim that this format does not have")

    def refuse(self, why: str) -> NoReturn:
        """Say ``why`` this map is none of the format.

        Raises:
            AttestationError: EVIDENCE_FORMAT.
        """
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"{self._what}: {why}")

    def take(self, key: int | str, name: str) -> Value:
        """The claim under ``key``, which must be there."""
        if key not in self._value:
            self.refuse(f"{name} expected")
        return self._value.pop(key)

    def take_any(self, key: int | str) -> Value:
        """The claim under ``key``; None when it is absent or null."""
        return self._value.pop(key, None)

    def octets(self, key: int | str, name: str, sizes: tuple[int, ...] | range) -> bytes:
        """A byte string whose length is one of ``sizes``."""
        value = self.take(key, name)
        if not isinstance(value, bytes) or len(value) not in sizes:
            self.refuse(f"{name}: bytes of a length that the format allows expected")
        return value

    def optional_octets(self, key: int | str, name: str, sizes: tuple[int, ...] | range) -> bytes | None:
        """As :meth:`octets`; None when it is absent or null."""
        if self._value.get(key) is None:
            self._value.pop(key, None)
            return None
        return self.octets(key, name, sizes)

    def text(self, key: int | str, name: str, *, max_length: int = 256) -> str:
        """A text of 1 to ``max_length`` characters."""
        value = self.take(key, name)
        if not isinstance(value, str) or not 0 < len(value) <= max_length:
            self.refuse(f"{name}: text of 1 to {max_length} characters expected")
        return value

    def optional_text(self, key: int | str, name: str) -> str | None:
        """As :meth:`text`; None when it is absent."""
        return self.text(key, name) if key in self._value else None

    def optional_flag(self, key: int | str, name: str) -> bool | None:
        """True or false; None when it is absent."""
        value = self._value.pop(key, None)
        if value is not None and not isinstance(value, bool):
            self.refuse(f"{name}: true or false expected")
        return value

    def unsigned(self, key: int | str, name: str, *, high: int) -> int:
        """An integer of 0 to ``high``."""
        value = self.take(key, name)
        if type(value) is not int or not 0 <= value <= high:
            self.refuse(f"{name}: an integer of 0 to {high} expected")
        return value

    def items(self, key: int | str, name: str, *, max_items: int) -> tuple[Value, ...]:
        """A list of 1 to ``max_items``."""
        value = self.take(key, name)
        if not isinstance(value, tuple) or not 0 < len(value) <= max_items:
            self.refuse(f"{name}: a list of 1 to {max_items} expected")
        return value
