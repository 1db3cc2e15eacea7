"""Prometheus metrics of one host. Trust zone: host.

Labels stay few and public: never a member's norm, loss or metric; a plan shows as the first 12 digits of its digest.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, make_wsgi_app

from coordinator.host.collateral import CollateralDates
from coordinator.host.events import PublicEvent
from coordinator.host.round_stages import round_seconds, told_stages
from coordinator.host.shortages import Shortage, shortage_of

VERSION = "0.1.0"
_STAGE_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)
_ACCEPT_AGAIN_S = 0.25
_ROUND_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_PARTICIPANTS = {"counted": "included", "refused": "rejected", "failed": "failed", "gone": "dropped", "lost": "lost"}


class HostMetrics:
    """One registry, so that two hosts in one process (tests) do not share counts."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        Info("cloister_build", "What runs here.", registry=registry).info({"version": VERSION})
        self.runs = Gauge("cloister_runs", "Runs by state.", ["state"], registry=registry)
        self.sessions = Gauge("cloister_sessions", "Open worker streams.", ["plan"], registry=registry)
        self.spool_bytes = Gauge("cloister_spool_bytes", "Quota taken by sealed blobs.", registry=registry)
        self.payload_bytes = Counter(
            "cloister_payload_bytes", "Bytes carried.", ["direction", "kind"], registry=registry
        )
        self.upload_wait_seconds = Counter(
            "cloister_upload_wait_seconds", "Seconds that uploads waited for their turn.", registry=registry
        )
        self.rpc_seconds = Histogram(
            "cloister_rpc_duration_seconds", "Length of calls.", ["method", "code"], registry=registry
        )
        self.open_calls = Gauge("cloister_open_calls", "Calls under way.", registry=registry)
        self.refusals = Counter("cloister_refusals", "Calls that the host refused.", ["reason"], registry=registry)
        self.shortages = Counter(
            "cloister_host_shortages", "Times that the host lacked something.", ["what"], registry=registry
        )
        for what in Shortage:
            self.shortages.labels(what.value)
        self.dropped_fields = Counter(
            "cloister_egress_blocked", "Event fields that may not be shown.", ["rule"], registry=registry
        )
        self._round = Gauge("cloister_run_round", "Newest round.", ["plan"], registry=registry)
        self._round_seconds = Histogram(
            "cloister_round_duration_seconds", "Length of rounds.", registry=registry, buckets=_ROUND_SECONDS
        )
        self._stage_seconds = Histogram(
            "cloister_round_stage_seconds",
            "Length of each stage of a round, as the aggregator and its workers tell it.",
            ["stage"],
            registry=registry,
            buckets=_STAGE_SECONDS,
        )
        self._participants = Counter(
            "cloister_round_participants", "Contributions by what became of them.", ["outcome"], registry=registry
        )
        self._attestations = Counter(
            "cloister_attestation", "Admissions and refusals.", ["result", "reason"], registry=registry
        )
        self._updates_rejected = Counter(
            "cloister_updates_rejected", "Refused contributions.", ["reason"], registry=registry
        )

    def watch_collateral(self, store: Path) -> None:
        """Show when what lies in ``store`` ends."""
        self.registry.register(CollateralDates(store))

    def observe_event(self, event: PublicEvent) -> None:
        """Count what a public event says."""
        if event.dropped:
            self.dropped_fields.labels("event-field").inc(event.dropped)
        fields, reason = event.fields, str(event.fields.get("reason") or "none")
        if event.name in ("admitted", "refused", "evicted"):
            self._attestations.labels(event.name, reason).inc()
        if event.name == "contribution":
            outcome = _PARTICIPANTS.get(str(fields.get("outcome")), "other")
            self._participants.labels(outcome).inc()
            if outcome == "rejected":
                self._updates_rejected.labels(reason).inc()
        if event.name == "round-opened" and "round" in fields:
            self._round.labels(fields["plan"][:12]).set(fields["round"])
        if event.name == "round-stages":
            self._observe_stages(told_stages(fields))

    def _observe_stages(self, stages: Mapping[str, float]) -> None:
        for stage, seconds in stages.items():
            self._stage_seconds.labels(stage).observe(seconds)
        whole = round_seconds(stages)
        if whole is not None:
            self._round_seconds.observe(whole)


class _MetricsServer(ThreadingMixIn, WSGIServer):
    """Without descriptors to accept with, it waits a moment in place of asking again and again."""

    daemon_threads = True

    def get_request(self) -> tuple[Any, Any]:
        """One connection."""
        try:
            return super().get_request()
        except OSError as error:
            if shortage_of(error) is not None:
                time.sleep(_ACCEPT_AGAIN_S)
            raise


class _Silent(WSGIRequestHandler):
    """One scraper."""

    timeout = 30.0  # one that says nothing

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: logs go through one allow-list."""


def serve_metrics(metrics: HostMetrics, port: int) -> tuple[WSGIServer, Thread]:
    """Answer ``GET /metrics`` on loopback; whoever is to scrape from elsewhere puts a proxy in front."""
    application = make_wsgi_app(metrics.registry)
    server = make_server("127.0.0.1", port, application, server_class=_MetricsServer, handler_class=_Silent)
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    return server, thread
