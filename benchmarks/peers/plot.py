"""Seconds of a round by peer and size, as SVG: no library, one file. Trust zone: the developer's machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.peers.comparison import REFERENCE, Standing

_LABEL, _BARS, _NOTE = 190, 420, 150  # columns, in pixels
_ROW, _TOP = 26, 44
_OURS, _THEIRS = "#1f6f5c", "#9aa5b1"


def plot(found: Sequence[Standing]) -> str:
    """A bar for each standing, on a logarithmic axis of time, grouped by load; the line spans fastest to slowest."""
    low = min(standing.fastest_s for standing in found) / 2
    high = max(standing.slowest_s for standing in found) * 1.1
    parts = [_text(8, 20, "A round without training: seconds, logarithmic. Less is better.", "bold")]
    y = _TOP
    previous = None
    for standing in found:
        if standing.load != previous:
            heading = f"{standing.load.workers} workers x {standing.load.megabytes:g} MB"
            parts.append(_text(8, y + 16, heading, "bold"))
            previous, y = standing.load, y + _ROW
        parts += _bar(standing, y, (low, high))
        y += _ROW
    size = f'width="{_LABEL + _BARS + _NOTE}" height="{y + 12}"'
    style = 'font-family="sans-serif" font-size="13" style="background:white"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def _bar(standing: Standing, y: int, scale: tuple[float, float]) -> list[str]:
    end = _x(standing.round_s, scale)
    colour = _OURS if standing.peer == REFERENCE else _THEIRS
    times = "" if standing.times_reference is None else f" ({standing.times_reference:.1f}x)"
    middle = y + 10
    return [
        _text(20, y + 14, f"{standing.peer} {standing.version}"),
        f'<rect x="{_LABEL}" y="{y + 2}" width="{end - _LABEL:.1f}" height="16" fill="{colour}"/>',
        f'<line x1="{_x(standing.fastest_s, scale):.1f}" x2="{_x(standing.slowest_s, scale):.1f}" '
        f'y1="{middle}" y2="{middle}" stroke="black"/>',
        _text(max(end, _x(standing.slowest_s, scale)) + 6, y + 14, f"{standing.round_s:.3g} s{times}"),
    ]


def _x(seconds: float, scale: tuple[float, float]) -> float:
    low, high = scale
    return _LABEL + _BARS * math.log(seconds / low) / math.log(high / low)


def _text(x: float, y: float, words: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}">{escape(words)}</text>'
