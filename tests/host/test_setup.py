"""Configuration, certificates, health, reflection, metrics, and the host as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from console.client import HostClient
from coordinator.host.config import HostConfig
from coordinator.host.limits import Limits
from coordinator.host.metrics import HostMetrics, serve_metrics
from coordinator.host.peers import PeerGate
from coordinator.host.server import order_verifier
from coordinator.host.tls import server_identity
from protos.generate import ROOT, generate
from tests.host.conftest import RunningHost, signed_order
from tests.world import NOW, World
from trusted.errors import ProtocolError, Reason, RunError
from worker.grpc_channel import HostAddress

CONFIG = {"state": "state", "listen": "localhost:0", "door": "unix:/tmp/x", "charter": "charter.json"}


def load(tmp_path: Path, value: Any) -> HostConfig:
    path = tmp_path / "host.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return HostConfig.load(path)


def test_a_configuration_is_read_with_defaults_and_paths_beside_it(tmp_path: Path) -> None:
    config = load(tmp_path, CONFIG | {"limits": {"runs": 5, "stall_s": 1.5}, "names": ["a.example"]})
    assert (config.state, config.charter) == (tmp_path / "state", tmp_path / "charter.json")
    assert (config.limits.runs, config.limits.stall_s, config.limits.streams_per_connection) == (5, 1.5, 64)
    assert config.names == ("a.example",)
    assert load(tmp_path, CONFIG).names == ("localhost", "127.0.0.1", "::1")


@pytest.mark.parametrize(
    "value",
    [
        "not json",
        "[]",
        {key: value for key, value in CONFIG.items() if key != "door"},
        CONFIG | {"unknown": 1},
        CONFIG | {"door": "tcp:0.0.0.0:1"},
        CONFIG | {"limits": {"unknown": 1}},
        CONFIG | {"limits": {"runs": 0}},
        CONFIG | {"certificate": "only.pem"},
        CONFIG | {"metrics_port": 70_000},
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ProtocolError):
        load(tmp_path, value)


def test_a_missing_configuration_or_charter_says_which_file(tmp_path: Path) -> None:
    for call in (lambda: HostConfig.load(tmp_path / "none"), lambda: order_verifier(tmp_path / "none", NOW)):
        with pytest.raises(RunError, match="No such file"):
            call()


def test_certificates_are_kept_renewed_and_private(tmp_path: Path) -> None:
    names = ["host.example", "127.0.0.1"]
    first = server_identity(tmp_path, names, NOW)
    assert server_identity(tmp_path, names, NOW) == first
    later = server_identity(tmp_path, names, NOW + timedelta(days=380))
    renamed = server_identity(tmp_path, ["other.example"], NOW)
    assert first.ca_pem == later.ca_pem == renamed.ca_pem
    assert len({first.chain_pem, later.chain_pem, renamed.chain_pem}) == 3
    leaf, ca = x509.load_pem_x509_certificates(first.chain_pem)
    leaf.verify_directly_issued_by(ca)
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.DNSName) == ["host.example"]
    for name in ("ca.key", "server.key"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
    assert "PRIVATE" not in repr(first)


def test_health_and_reflection_answer(host: RunningHost) -> None:
    with HostAddress(host.target, host.ca).open() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "cloister.v1.Relay", "cloister.v1.Blobs", "cloister.v1.Runs"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (listed,) = stub.ServerReflectionInfo(iter([request]), timeout=5)
        names = {service.name for service in listed.list_services_response.service}
        assert {"cloister.v1.Relay", "cloister.v1.Blobs", "cloister.v1.Runs", "grpc.health.v1.Health"} <= names


def test_plain_text_clients_are_not_served(host: RunningHost) -> None:
    with grpc.insecure_channel(host.target) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)


def test_calls_are_timed_by_method_and_code(host: RunningHost) -> None:
    host.client().runs()
    with pytest.raises(ProtocolError):
        host.client().status(b"\0" * 32)
    for method, code in (("Runs.List", "OK"), ("Runs.Get", "NOT_FOUND")):  # counted just after the answer has left
        deadline = time.monotonic() + 5
        while host.metric("cloister_rpc_duration_seconds_count", method=method, code=code) != 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert host.metric("cloister_refusals_total", reason="RUN-702") == 1


def test_metrics_are_served_on_loopback() -> None:
    metrics = HostMetrics()
    server, thread = serve_metrics(metrics, 0)
    host, port = server.server_address[:2]
    assert host == "127.0.0.1"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    server.shutdown()
    thread.join(5)
    for name in ("cloister_build_info", "cloister_spool_bytes"):
        assert name in text


def test_a_peer_gate_counts_addresses_and_forgets_them() -> None:
    gate = PeerGate(Limits(streams_per_peer=1))
    with gate.enter("ipv4:10.0.0.1:5"), gate.enter("ipv4:10.0.0.2:5"):
        with pytest.raises(RunError) as caught, gate.enter("ipv4:10.0.0.1:6"):
            pass
        assert caught.value.reason is Reason.QUOTA
    with gate.enter("ipv4:10.0.0.1:7"):
        pass


def test_regenerating_gives_the_committed_code(tmp_path: Path) -> None:
    written = generate(tmp_path)
    assert len(written) == 3 * len(list((ROOT / "protos" / "v1").glob("*.proto")))
    for path in written:
        assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes(), f"{path}: run `make protos`"


@pytest.mark.slow
def test_the_process_serves_and_stops_on_a_signal(tmp_path: Path, world: World) -> None:
    (tmp_path / "charter.json").write_bytes(world.charter.envelope)
    config = tmp_path / "host.json"
    config.write_text(json.dumps(CONFIG | {"door": "tcp:127.0.0.1:0", "limits": {"free_disk_bytes": 1}}))
    command = [sys.executable, "-P", "-m", "coordinator.host", str(config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        ready = dict(item.split("=", 1) for item in process.stdout.readline().decode().split()[1:])
        with HostClient(f"localhost:{ready['port']}", Path(ready["ca"]).read_bytes()) as client:
            assert client.runs() == []
            with pytest.raises(ProtocolError) as caught:
                client.submit(signed_order(world, signed_by=None))
            assert caught.value.reason is Reason.THRESHOLD
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=15)
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in errors.splitlines()] == ["host-ready", "host-stopping"]


def test_a_process_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "coordinator.host", str(tmp_path / "none.json")]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=30)
    assert done.returncode == 1
    assert done.stderr.decode().startswith("WIR-106 MISSING_FIELD: host configuration")
    assert done.stderr.count(b"\n") == 1
