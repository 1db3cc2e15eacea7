"""One TLS channel to a coordinator host, and what its errors mean to a person. Trust zone: outside the session.

TLS here keeps strangers out of sizes and timing. Nothing rests on it: a proxy that reads it gains ciphertext. Workers
and consoles share this module; the host that it talks to may lie in every answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import grpc

from trusted.errors import ProtocolError, Reason, RunError

REASON_METADATA = "cloister-reason"
MAX_MESSAGE_BYTES = (4 << 20) + (64 << 10)
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Proxies and NAT forget connections that are silent for a minute; a dead one is noticed within the same time.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # whoever calls waits longer, and should find out at once when it calls
)
# A disk that is full may be so for a minute; a site that gave up at once would cost the round its update.
PASSING = frozenset(reason.value for reason in (Reason.UNREACHABLE, Reason.STORE_AWAY, Reason.HOST_SHORT, Reason.QUOTA))
_PLAINTEXT = "http://"
_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
_CUT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN})


@dataclass(frozen=True, slots=True)
class HostAddress:
    """How a host is reached: ``target`` (``name:port``, or ``http://127.0.0.1:port`` where a proxy on this machine adds
    TLS), the CA that its certificate must come from (PEM; None: the
    public ones), and an HTTP CONNECT ``proxy`` (``http://user:password@name:port``; None: what ``https_proxy`` and
    ``no_proxy`` in the environment say).
    """

    target: str
    ca_pem: bytes | None
    proxy: str | None = None

    def __repr__(self) -> str:
        return f"HostAddress(target={self.target!r})"  # a proxy's password has no place in a log

    def open(self) -> grpc.Channel:
        """A channel, connected when it is first used."""
        options: list[tuple[str, str | int]] = list(_OPTIONS)
        if self.target.startswith(_PLAINTEXT):
            options.append(("grpc.enable_http_proxy", 0))  # what must not leave this machine passes no proxy
            return grpc.insecure_channel(loopback_target(self.target), options=options)
        if self.proxy is not None:
            options.append(("grpc.http_proxy", self.proxy))
        credentials = grpc.ssl_channel_credentials(root_certificates=self.ca_pem)
        return grpc.secure_channel(self.target, credentials, options=options)


def loopback_target(target: str) -> str:
    """``name:port`` of a plaintext target, which must not leave this machine.

    Raises:
        RunError: it would.
    """
    address = target.removeprefix(_PLAINTEXT)
    if address.rpartition(":")[0] not in _LOOPBACK:
        raise RunError(
            Reason.MALFORMED,
            "coordinator.target: http:// is for 127.0.0.1, [::1] and localhost; else name:port",
        )
    return address


def is_cut(error: grpc.RpcError) -> bool:
    """Whether the connection broke, or the host said that it or its store stalled or is full: later may help."""
    number = _reason_number(error)
    return number in PASSING if number else _code(error) in _CUT


def refusal_of(error: grpc.RpcError, target: str = "coordinator.target") -> ProtocolError:
    """What ``error`` means: the host's numbered reason, or that ``target`` was not reached and what to check."""
    number = _reason_number(error)
    if number in {reason.value for reason in Reason}:
        return RunError(Reason(number), f"said by the host: {_detail(error)[:300]}")
    return RunError(Reason.UNREACHABLE, f"{target}: {_diagnose(error)}")


def _diagnose(error: grpc.RpcError) -> str:
    detail, code = _detail(error).lower(), _code(error)
    if "certificate" in detail or "handshake" in detail or "ssl" in detail:
        return (
            "TLS failed; the certificate is not from the given CA or not for this name. Check the CA file, the host's"
            " `names`, and whether a proxy inspects TLS on the way"
        )
    if "proxy" in detail or "http connect" in detail:
        return "the HTTP proxy refused the tunnel; check its address, its credentials and that it allows this port"
    if "name resolution" in detail or "dns" in detail:
        return "the name does not resolve; check its spelling and DNS, or give a proxy that resolves it"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time; check that the host runs and that a firewall lets this port out"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "something answers that is no Cloister host of this version; check address and port"
    if code in _CUT:
        return "no connection; check address and port, that the host runs, and the firewall or proxy on the way out"
    return f"the host answered {'nothing' if code is None else code.name}; its log says more"


def _reason_number(error: grpc.RpcError) -> int:
    trailing: Iterable[tuple[str, str | bytes]] = ()
    if isinstance(error, grpc.Call):
        trailing = error.trailing_metadata() or ()
    text = next((str(value) for key, value in trailing if key == REASON_METADATA), "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, grpc.Call) else None


def _detail(error: grpc.RpcError) -> str:
    return str(error.details() or "") if isinstance(error, grpc.Call) else ""
