"""What is searched for: values that no other process of this machine can know, in every form in which one could leak.

A pattern is refused when it is too short to be unique: a search that finds chance is worth as little as one that finds
nothing.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

RUN = 4  # so many numbers in a row make a needle: a single float32 occurs by chance
_MIN_BYTES = 8
_MIN_NONZERO = 5  # an int64 of a small number is mostly zeros, and memory is full of those
_ENCODED = 16  # hex and base64 of so many bytes


@dataclass(frozen=True, slots=True)
class Pattern:
    """The bytes of one needle in one form. Neither is ever printed with a value."""

    needle: str
    form: str
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what could occur by chance."""
        if len(self.data) < _MIN_BYTES or len(self.data) - self.data.count(0) < _MIN_NONZERO:
            raise ValueError(f"{self.needle} as {self.form}: too short to be unique")


def text_needle(name: str, value: str) -> Iterator[Pattern]:
    """Words from the data: UTF-8 (which is ASCII here), UTF-16, hex and base64."""
    data = value.encode()
    yield Pattern(name, "text", data)
    yield Pattern(name, "UTF-16", value.encode("utf-16-le"))
    yield from _encoded(name, data)


def secret_needle(name: str, data: bytes, pem: str = "") -> Iterator[Pattern]:
    """A private key: its raw bytes, hex, base64, and the lines of its PEM block."""
    yield Pattern(name, "raw", data)
    yield from _encoded(name, data)
    for number, line in enumerate(line for line in pem.splitlines() if len(line) >= 32 and "-" not in line):
        yield Pattern(name, f"PEM line {number + 1}", line.encode())


def number_needle(name: str, value: float) -> Iterator[Pattern]:
    """One number of at least nine digits: decimal text, and eight bytes where enough of them are not zero."""
    text = str(int(value)) if float(value).is_integer() else repr(value)
    yield Pattern(name, "decimal", text.encode())
    for form, data in (
        ("float64 LE", struct.pack("<d", value)),
        ("float64 BE", struct.pack(">d", value)),
        ("hex of float64", struct.pack("<d", value).hex().encode()),
    ):
        yield Pattern(name, form, data)
    if float(value).is_integer() and value >= 1 << 32:
        yield Pattern(name, "int64 LE", struct.pack("<q", int(value)))
        yield Pattern(name, "int64 BE", struct.pack(">q", int(value)))


def vector_needle(name: str, values: Sequence[float]) -> Iterator[Pattern]:
    """:data:`RUN` float32 in a row: both byte orders, as float32 and float64, hex, base64, each number as text."""
    run = np.array(values[:RUN], dtype=np.float32)
    if len(run) != RUN or len(set(run.tolist())) != RUN or not all(map(math.isfinite, run.tolist())):
        raise ValueError(f"{name}: {RUN} different finite numbers expected")
    for dtype in ("<f4", ">f4", "<f8", ">f8"):
        yield Pattern(name, f"run of {dtype}", run.astype(dtype).tobytes())
    yield from _encoded(name, run.astype("<f4").tobytes())
    for value in run:
        for form, text in (("decimal of float64", repr(float(value))), ("decimal of float32", str(value))):
            if sum(letter.isdigit() for letter in text) >= _MIN_BYTES:
                yield Pattern(name, form, text.encode())


def _encoded(name: str, data: bytes) -> Iterator[Pattern]:
    start = data[:_ENCODED]
    yield Pattern(name, "hex", start.hex().encode())
    yield Pattern(name, "upper-case hex", start.hex().upper().encode())
    for shift in range(3):  # where the value starts within three bytes decides how base64 spells it
        spelled = base64.b64encode(b"\x00" * shift + start)
        inner = spelled[-(-8 * shift // 6) : (8 * (shift + len(start))) // 6]
        for form, pattern in (("base64", inner), ("base64url", inner.translate(bytes.maketrans(b"+/", b"-_")))):
            yield Pattern(name, form, pattern)
