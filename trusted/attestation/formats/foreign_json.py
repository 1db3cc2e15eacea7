"""JSON that others wrote, read strictly: no key twice, no NaN, bounded, and never re-written. Trust zone: every TEE.

Our own documents are canonical (``trusted.wire``). Vendors' are not, and what they signed is their own spelling; so the
bytes are checked by digest or signature first, and this only makes sure that they have one meaning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trusted.errors import AttestationError, Reason

_MAX_DEPTH = 16
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def parse_object(data: bytes, name: str, *, max_bytes: int) -> Mapping[str, Any]:
    """The JSON object in ``data``; ``name`` leads the errors.

    Raises:
        AttestationError: EVIDENCE_FORMAT: too large, nested too deep, a key twice, or no JSON object in UTF-8.
    """
    if len(data) > max_bytes or _depth_bound(data) > _MAX_DEPTH:
        raise _error(name, f"at most {max_bytes} bytes, nested at most {_MAX_DEPTH} deep, expected")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise _error(name, "a JSON object with distinct keys expected") from None
    if not isinstance(value, dict):
        raise _error(name, "a JSON object expected")
    return value


def field(value: Mapping[str, Any], key: str, kind: type, name: str) -> Any:
    """``value[key]``, which must be there and be a ``kind`` (a bool is no integer).

    Raises:
        AttestationError: EVIDENCE_FORMAT.
    """
    found = value.get(key)
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise _error(name, f"{key}: {kind.__name__} expected")
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key twice")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(text)


def _depth_bound(data: bytes) -> int:
    """An upper bound of the nesting: brackets inside strings count too, which only makes the limit stricter."""
    depth = deepest = 0
    for byte in data.translate(None, delete=_NOT_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _error(name: str, rule: str) -> AttestationError:
    return AttestationError(Reason.EVIDENCE_FORMAT, f"{name}: {rule}")
