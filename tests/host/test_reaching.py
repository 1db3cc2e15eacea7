"""Reaching a host: through a CONNECT proxy, and what a person is told when it cannot be reached."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from coordinator.door import DoorKind
from coordinator.host.tls import server_identity
from tests.host.conftest import PLAN, RunningHost
from tests.world import NOW
from trusted.errors import ProtocolError, Reason
from worker.dialer import Dialer, Patience
from worker.grpc_channel import HostAddress


class ConnectProxy:
    """An HTTP proxy that knows CONNECT alone, and notes what it was asked."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://user:word@127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        self.requests.append(head)
        client.sendall(self.answer)
        if b" 200 " not in self.answer:
            client.close()
            return
        port = int(head.split()[1].rpartition(b":")[2])
        server = socket.create_connection(("localhost", port))
        threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
        self._pump(server, client)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass
        for sock in (source, sink):
            sock.close()


@pytest.fixture
def no_proxy_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """None of the variables that this machine may have."""
    for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    """A proxy that lets everything through."""
    made = ConnectProxy()
    yield made
    made.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
    made.listener.close()


def exchange(host: RunningHost, dialer: Dialer) -> None:
    peer = host.door()
    with dialer.attach() as stream:
        stream.send(b"through")
        session = peer.next(DoorKind.ATTACHED).channel
        assert peer.next(DoorKind.FRAME).body == b"through"
        peer.control.send(DoorKind.FRAME, session, b"and back")
        assert stream.receive(timeout=5) == b"and back"


def test_a_worker_reaches_its_host_through_a_connect_proxy(
    host: RunningHost, proxy: ConnectProxy, no_proxy_environment: pytest.MonkeyPatch
) -> None:
    exchange(host, host.dialer(proxy=proxy.url))
    (request,) = proxy.requests
    assert request.startswith(f"CONNECT localhost:{host.ready.port} ".encode())
    assert b"Proxy-Authorization: Basic dXNlcjp3b3Jk" in request


def test_the_usual_environment_is_honoured(
    host: RunningHost, proxy: ConnectProxy, no_proxy_environment: pytest.MonkeyPatch
) -> None:
    no_proxy_environment.setenv("https_proxy", proxy.url)
    exchange(host, host.dialer())
    assert len(proxy.requests) == 1


def failure(target: str, ca: bytes, proxy: str | None = None) -> ProtocolError:
    with Dialer(target, ca, PLAN, proxy=proxy, patience=Patience(1)) as dialer:
        with pytest.raises(ProtocolError) as caught:
            list(dialer.get_blob(bytes(16)))
        stream = dialer.attach()
        assert stream.receive(timeout=20) is None
        assert stream.refusal is not None
        assert stream.refusal.reason is caught.value.reason
    return caught.value


def test_a_proxy_that_refuses_is_named(host: RunningHost, no_proxy_environment: pytest.MonkeyPatch) -> None:
    proxy = ConnectProxy(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    error = failure(host.target, host.ca, proxy.url)
    proxy.listener.close()
    assert error.reason is Reason.UNREACHABLE
    assert "proxy refused" in error.detail


def test_a_host_under_another_ca_is_not_reached(host: RunningHost, no_proxy_environment: pytest.MonkeyPatch) -> None:
    other = server_identity(host.config.state / "other", ["localhost"], NOW)
    error = failure(host.target, other.ca_pem)
    assert error.reason is Reason.UNREACHABLE
    assert "CA" in error.detail


def test_nobody_there_says_what_to_check(host: RunningHost, no_proxy_environment: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = failure(f"127.0.0.1:{port}", host.ca)
    assert error.reason is Reason.UNREACHABLE
    assert "check address and port" in error.detail


def test_a_proxys_password_has_no_repr() -> None:
    assert "word" not in repr(HostAddress("a:1", None, "http://user:word@proxy:1"))
