"""RFC 8785 JSON: one spelling for each value. Trust zone: every TEE.

``rfc8785`` says what the bytes are. For plain values (ASCII keys, integers that JSON holds exactly, fractions that
Python spells as ECMAScript does), which are nearly all that travels, Python's own encoder writes the same bytes in a
tenth of the time; everything else, and whatever is in any doubt, is left to the library.
"""

from __future__ import annotations

import json
from typing import Any

import rfc8785

_LARGEST = (1 << 53) - 1
_LARGEST_DIGITS = 17  # of an integer, its sign included
_LEAST_FRACTION, _FRACTION_BOUND = 1e-4, 1e15  # between them both spell the shortest digits, and no exponent
_PLAIN = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False)


def encode(value: Any) -> bytes:
    """RFC 8785 bytes of ``value``.

    Raises:
        rfc8785.CanonicalizationError: it has none.
    """
    if _is_plain(value):
        try:
            return _PLAIN.encode(value).encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair: the library refuses it in its own words
            pass
    try:
        return rfc8785.dumps(value)
    except UnicodeEncodeError:  # of a key, which it does not look at before
        raise rfc8785.CanonicalizationError("half of a surrogate pair in a key") from None


def decode(data: bytes) -> tuple[Any, bytes]:
    """The value of any JSON in ``data``, and how RFC 8785 spells that value.

    Raises:
        ValueError, RecursionError, rfc8785.CanonicalizationError: not JSON, or nothing that has such a spelling.
    """
    if data.isascii():
        try:
            value = _READER.decode(data.decode("ascii"))
        except (ValueError, RecursionError):  # _NotPlain among them
            pass
        else:
            if _PLAIN.encode(value).encode("utf-8", "surrogatepass") == data:
                return value, data
    value = json.loads(data)
    return value, rfc8785.dumps(value)


def _is_plain(value: object) -> bool:
    """Whether both encoders agree about ``value``: exact types, so that nothing brings an encoding of its own."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if isinstance(value, int) and kind is int:
        return -_LARGEST <= value <= _LARGEST
    if isinstance(value, float) and kind is float:
        return _is_plain_fraction(value)
    if isinstance(value, list | tuple) and kind in (list, tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict) and kind is dict:
        return all(type(key) is str and key.isascii() for key in value) and all(map(_is_plain, value.values()))
    return False


def _is_plain_fraction(value: float) -> bool:
    return _LEAST_FRACTION <= abs(value) < _FRACTION_BOUND and not value.is_integer()


class _NotPlain(ValueError):
    """Something that Python and RFC 8785 spell differently."""


def _refuse(text: str) -> Any:
    raise _NotPlain(text)


def _read_integer(text: str) -> int:
    if len(text) > _LARGEST_DIGITS or abs(number := int(text)) > _LARGEST:
        raise _NotPlain("integer")
    return number


def _read_fraction(text: str) -> float:
    if not _is_plain_fraction(number := float(text)):
        raise _NotPlain("fraction")
    return number


_READER = json.JSONDecoder(parse_float=_read_fraction, parse_constant=_refuse, parse_int=_read_integer)
