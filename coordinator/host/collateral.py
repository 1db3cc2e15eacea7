"""The operator's store of endorsements: its index, and when they end, as a metric. Trust zone: host.

The host cannot read evidence and does not try to: it reads the index that ``cloister collateral`` keeps. An alert on it
warns before every attestation of a site without a network fails on the same day.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from trusted.errors import Reason, WireError
from trusted.wire import Fields, decode_json

INDEX = "index.json"
_MAX_INDEX_BYTES = 1 << 20
_TIME_FORM = "%Y-%m-%dT%H:%M:%SZ"
_FILE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Kept:
    """One line of the index: what a statement is called, when it ends (None: never), and the file that it is in."""

    kind: str
    name: str
    expires: datetime | None
    file: str


class CollateralDates(Collector):
    """Reads the index at each scrape. A store that cannot be read says so, and gives no dates."""

    def __init__(self, store: Path) -> None:
        self._index = store / INDEX

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One sample for each endorsement that ends."""
        expiry = GaugeMetricFamily(
            "cloister_collateral_expiry_timestamp_seconds", "When an endorsement ends.", labels=["kind", "name"]
        )
        readable = GaugeMetricFamily("cloister_collateral_store_readable", "1 if the store's index could be read.")
        try:
            for kept in read_index(self._index):
                if kept.expires is not None:
                    expiry.add_metric([kept.kind, kept.name], kept.expires.timestamp())
            readable.add_metric([], 1)
        except (OSError, WireError, ValueError):
            readable.add_metric([], 0)
        yield readable
        yield expiry


def read_index(index: Path) -> list[Kept]:
    """The lines of the index in this file.

    Raises:
        OSError, WireError, ValueError: it cannot be read, or is none.
    """
    with index.open("rb") as file:
        value = decode_json(file.read(_MAX_INDEX_BYTES + 1), max_bytes=_MAX_INDEX_BYTES)
    return [_read_line(item) for item in Fields(value, "index").items("entries")]


def _read_line(item: Any) -> Kept:
    entry = Fields(item, "index.entries")
    text = entry.take("expires", str, type(None))
    expires = None if text is None else datetime.strptime(text, _TIME_FORM).replace(tzinfo=UTC)
    kind, name = entry.text("kind", max_length=32), entry.text("name", max_length=256)
    file = entry.text("file", max_length=64)
    if not _FILE.fullmatch(file):
        raise WireError(Reason.MALFORMED, "index.entries.file: a SHA-256 expected")
    return Kept(kind, name, expires, file)
