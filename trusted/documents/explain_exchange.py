"""What travels each round, in sentences for the person who is asked to sign. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator

from trusted.documents.layout import Dtype, Layout
from trusted.documents.terms import Exchange
from trusted.encoding import BLOCK, Encoding

_NAMES_SHOWN = 20
_ERRORS = {
    Encoding.BFLOAT16: "each number is off by at most 1/256 of itself",
    Encoding.INT8: f"each number is off by at most 1/254 of the largest in its block of {BLOCK}",
}
_MEASURED = {Encoding.BFLOAT16: "0.17 %", Encoding.INT8: "0.35 to 0.8 %"}


def explain_exchange(exchange: Exchange, whole: Layout) -> Iterator[str]:
    """Which tensors of ``whole`` travel, how large, with which error, and what becomes of those that do not."""
    named = frozenset(exchange.tensors)
    part = Layout(tuple(tensor for tensor in whole.tensors if tensor.name in named)) if named else whole
    if named:
        yield from _left_out(part, whole)
    yield _sizes(exchange, part, whole)
    if _wide(part):
        yield (
            f"{_listed(_wide(part))}: float64 in the app, float32 on the way and in the fold, "
            "so that each number is off by at most 2^-24 of itself."
        )
    if exchange.model is not Encoding.FLOAT32:
        yield f"The round's model is rounded to {_name(exchange.model)}: {_ERRORS[exchange.model]}."
    if exchange.update is not Encoding.FLOAT32:
        measured = f"measured on Adam updates: {_MEASURED[exchange.update]} of the whole"
        yield f"An update is rounded to {_name(exchange.update)}: {_ERRORS[exchange.update]} ({measured})."
    if (exchange.model, exchange.update) == (Encoding.FLOAT32, Encoding.FLOAT32):
        return
    yield "The aggregator's own model, which is released, stays in float32."
    counters = [tensor.name for tensor in part.tensors if tensor.dtype is Dtype.INT64]
    if counters:
        yield f"Whole numbers are rounded in the same way: {_listed(counters)}."


def _wide(layout: Layout) -> list[str]:
    return [tensor.name for tensor in layout.tensors if tensor.dtype is Dtype.FLOAT64]


def _left_out(part: Layout, whole: Layout) -> Iterator[str]:
    names = [tensor.name for tensor in part.tensors]
    yield f"Only {len(names)} of {len(whole.tensors)} tensors are trained and exchanged: {_listed(names)}."
    yield (
        f"The other {len(whole.tensors) - len(names)} ({whole.elements - part.elements} numbers) travel once, sealed, "
        f"within the whole initial model ({_size(whole.size_bytes)}) to each site, and stay as it has them."
    )


def _sizes(exchange: Exchange, part: Layout, whole: Layout) -> str:
    down, up = exchange.model.size_bytes(part.elements), exchange.update.size_bytes(part.elements)
    said = (
        f"Each round {_size(down)} travel to each site ({_name(exchange.model)}) "
        f"and {_size(up)} back ({_name(exchange.update)})"
    )
    if exchange == Exchange() and not _wide(whole):
        return f"{said}: the whole model in full, and nothing is rounded."
    less = f"{_ratio(whole, down)} down, {_ratio(whole, up)} up"
    return f"{said}; the whole model in full takes {_size(whole.size_bytes)}: {less}."


def _ratio(whole: Layout, size_bytes: int) -> str:
    if size_bytes >= whole.size_bytes:
        return "no less"
    return f"1/{whole.size_bytes / size_bytes:.3g} of that"


def _name(encoding: Encoding) -> str:
    """As ``plan.exchange`` spells it."""
    return encoding.name.lower()


def _size(count: int) -> str:
    """Decimal units for people."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
