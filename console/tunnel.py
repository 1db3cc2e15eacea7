"""A TCP connection to a coordinator, straight or through a CONNECT proxy. Trust zone: operator.

gRPC makes its own tunnels; this one exists to say which step of the way fails.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from console.output import UserError
from worker.proxies import PROXY_PORT, credentials_of, split_proxy

TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 8 << 10


@dataclass(frozen=True, slots=True)
class Way:
    """Where to, and through which proxy (None: straight). The proxy's URL may hold a password."""

    host: str
    port: int
    proxy: str | None

    def __repr__(self) -> str:
        return f"Way(host={self.host!r}, port={self.port})"


class ProxyRefused(ConnectionError):
    """The proxy answered, and not with a tunnel."""


def open_way(way: Way) -> socket.socket:
    """A TCP connection to the coordinator, tunnelled by the proxy where there is one.

    Raises:
        OSError: no connection. UserError: the proxy's URL does not read.
    """
    if way.proxy is None:
        return socket.create_connection((way.host, way.port), TIMEOUT_S)
    try:
        url = split_proxy(way.proxy)
        place = (url.hostname or "", url.port or PROXY_PORT)
    except ValueError:
        raise UserError("the proxy's URL does not read", "Write it like http://proxy.example:3128.") from None
    connection = socket.create_connection(place, TIMEOUT_S)
    try:
        _tunnel(connection, way, credentials_of(url))
    except BaseException:
        connection.close()
        raise
    return connection


def _tunnel(connection: socket.socket, way: Way, credentials: str | None) -> None:
    target = f"[{way.host}]:{way.port}" if ":" in way.host else f"{way.host}:{way.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if credentials:
        lines.append(f"Proxy-Authorization: {credentials}")
    connection.sendall("\r\n".join((*lines, "", "")).encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _MAX_ANSWER_BYTES:
        part = connection.recv(_MAX_ANSWER_BYTES)
        if not part:
            break
        answer += part
    status = answer.split(b"\r\n", 1)[0].split(b" ")
    code = status[1].decode("ascii", "replace")[:3] if len(status) > 1 else "nothing"
    if code == "407":
        raise ProxyRefused("the proxy answers 407: it wants a user and a password")
    if code != "200":
        raise ProxyRefused(f"the proxy answers {code} to CONNECT")
