"""Checks of the way to a coordinator: TCP, proxy, TLS and whose certificate it is, health. Trust zone: operator.

Nothing but handshakes and one health question is sent. TLS protects sizes and timing only, yet a certificate of another
issuer than expected shows that somebody on the way inspects TLS, which often breaks gRPC.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import grpc
from cryptography import x509

from console.files import MAX_CA_BYTES, read_bounded
from console.finding import Examined, Finding, ok, problem, warning
from console.network_checks import split_address
from console.tunnel import TIMEOUT_S, ProxyRefused, Way, open_way
from protos.v1 import cloister_pb2
from trusted.errors import ProtocolError
from worker.grpc_channel import HostAddress, refusal_of
from worker.http_blobs import HttpBlobs, PortAway
from worker.proxies import proxy_for

_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"  # HealthCheckResponse, status = SERVING
_PROXY_ADVICE = "Check the proxy's address and password, and that it allows CONNECT to this name and port."


def coordinator(examined: Examined) -> Iterator[Finding]:
    """Findings about the way to the coordinator; the first step that fails is the last one tried."""
    host, number = split_address(examined.coordinator, "--coordinator")
    ca_pem = read_bounded(examined.ca, MAX_CA_BYTES) if examined.ca is not None else None
    way = Way(host, number, examined.proxy or proxy_for(host))
    via = "through the proxy" if way.proxy else "straight"
    try:
        open_way(way).close()
    except ProxyRefused as error:
        yield problem("coordinator tcp", str(error), _PROXY_ADVICE)
        return
    except OSError as error:
        advice = "Check name and port, that the coordinator runs, and the firewall; behind a proxy, give --proxy."
        yield problem("coordinator tcp", f"{examined.coordinator} {via}: {_why(error)}", advice)
        return
    yield ok("coordinator tcp", f"{examined.coordinator} reached {via}")
    shaken = tls(way, ca_pem)
    yield shaken
    if not shaken.advice:
        address = HostAddress(examined.coordinator, ca_pem, examined.proxy or None)
        yield health(address)
        yield from blob_port(address)


def tls(way: Way, ca_pem: bytes | None) -> Finding:
    """Whether TLS holds under the CA (None: the public ones), and who issued the certificate that is shown."""
    name = "coordinator tls"
    authority = "the given CA" if ca_pem is not None else "a public CA"
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ca_pem is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, ValueError):
        return problem(
            name, "the CA file holds no certificate in PEM", "Give the ca.pem that `coordinator serve` named."
        )
    try:
        issuer, protocol = _handshake(way, context)
    except ssl.SSLCertVerificationError as error:
        found = f"the certificate does not hold under {authority} ({error.verify_message}); issued by {_shown(way)}"
        return problem(name, found, _certificate_advice(error))
    except (OSError, ValueError) as error:
        return problem(name, f"no TLS: {_why(error)}", "Something else answers there: check the port and the proxy.")
    if protocol != "h2":
        found = f"issued by {issuer}; HTTP/2 was not agreed on"
        return problem(name, found, "A proxy on the way changes TLS: have it let this name through uninspected.")
    return ok(name, f"holds under {authority}, issued by {issuer}")


def _certificate_advice(error: ssl.SSLCertVerificationError) -> str:
    if "expired" in error.verify_message or "not yet valid" in error.verify_message:
        return "Check this machine's clock; then have the coordinator's operator renew the certificate."
    if "mismatch" in error.verify_message or "not valid for" in error.verify_message:
        return "Use a name that the certificate has, or restart the coordinator with --name for this one."
    return (
        "If that issuer is a company's or a firewall's, TLS is inspected on the way: have this name let through. "
        "Else give the ca.pem of this coordinator with --ca."
    )


def _shown(way: Way) -> str:
    """The issuer of whatever certificate is shown, unverified: to name who stands in the way, and for nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return _handshake(way, context)[0]
    except (OSError, ValueError):
        return "nobody knows whom"


def _handshake(way: Way, context: ssl.SSLContext) -> tuple[str, str | None]:
    """The issuer of the certificate that is shown, and the protocol agreed on. Nothing is sent but handshakes."""
    context.set_alpn_protocols(["h2"])
    with open_way(way) as connection, context.wrap_socket(connection, server_hostname=way.host) as secured:
        der = secured.getpeercert(binary_form=True) or b""
        return x509.load_der_x509_certificate(der).issuer.rfc4514_string(), secured.selected_alpn_protocol()


def health(address: HostAddress) -> Finding:
    """Whether a coordinator says that it serves, over gRPC as workers speak it."""
    name = "coordinator health"
    with address.open() as channel:
        check = channel.unary_unary(_HEALTH, request_serializer=bytes, response_deserializer=bytes)
        try:
            answer = check(b"", timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return problem(name, _refused(refusal_of(error)), "Look at the coordinator's host.log.")
    if answer != _SERVING:
        return problem(name, "it answers, and does not serve", "It starts or stops: try again, and look at host.log.")
    return ok(name, "serving")


def blob_port(address: HostAddress) -> Iterator[Finding]:
    """Whether the coordinator's second port is reached, where it has one: without it blobs take longer."""
    name = "coordinator blobs"
    with address.open() as channel:
        ask = channel.unary_unary(
            "/cloister.v1.Blobs/Http", cloister_pb2.HttpQuery.SerializeToString, cloister_pb2.HttpPort.FromString
        )
        try:
            port = ask(cloister_pb2.HttpQuery(), timeout=TIMEOUT_S).port
        except grpc.RpcError:  # a coordinator of before, or one whose health said why
            return
    if not 0 < port < 1 << 16:
        return
    blobs = HttpBlobs(address, port)
    try:
        blobs.reach()
    except PortAway as away:
        advice = "Have the firewall or proxy let this port out as well; until then blobs go over the first one."
        yield warning(name, f"port {port} is not reached ({away})", advice)
        return
    finally:
        blobs.close()
    yield ok(name, f"port {port} is reached, where blobs move for less work")


def _refused(error: ProtocolError) -> str:
    return f"{error.reason.code}: {error.detail}"


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "the name does not resolve"
    return (error.strerror if isinstance(error, OSError) else None) or "the answer is no TLS"
