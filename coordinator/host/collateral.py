"""When the endorsements in a store end, as a metric. Trust zone: host.

The host cannot read evidence and does not try to: it reads the index that ``cloister collateral`` keeps. An alert on it
warns before every attestation of a site without a network fails on the same day.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from trusted.errors import WireError
from trusted.wire import Fields, decode_json

INDEX = "index.json"
_MAX_INDEX_BYTES = 1 << 20
_TIME_FORM = "%Y-%m-%dT%H:%M:%SZ"


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
            for kind, name, expires in _read(self._index):
                expiry.add_metric([kind, name], expires.timestamp())
            readable.add_metric([], 1)
        except (OSError, WireError, ValueError):
            readable.add_metric([], 0)
        yield readable
        yield expiry


def _read(index: Path) -> list[tuple[str, str, datetime]]:
    with index.open("rb") as file:
        value = decode_json(file.read(_MAX_INDEX_BYTES + 1), max_bytes=_MAX_INDEX_BYTES)
    found: list[tuple[str, str, datetime]] = []
    for item in Fields(value, "index").items("entries"):
        entry = Fields(item, "index.entries")
        text = entry.take("expires", str, type(None))
        if text is not None:
            expires = datetime.strptime(text, _TIME_FORM).replace(tzinfo=UTC)
            found.append((entry.text("kind", max_length=32), entry.text("name", max_length=256), expires))
    return found
