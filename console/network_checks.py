"""Checks of this machine's side of the network: proxies in its environment, a port to serve on. Zone: operator."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from console.finding import Finding, ok, problem, warning
from console.output import UserError
from worker.proxies import BYPASS_VARIABLES, PROXY_VARIABLES

_MAX_PORT = 65535


def proxies(environment: Mapping[str, str] = os.environ) -> Finding:
    """Which proxy variables are set: their names, never what stands in them."""
    name = "proxy"
    used = [variable for variable in (*PROXY_VARIABLES, *BYPASS_VARIABLES) if environment.get(variable)]
    unread = [
        variable.upper()
        for variable in PROXY_VARIABLES
        if environment.get(variable.upper()) and not environment.get(variable)
    ]
    found = f"set: {', '.join(used) or 'none'}"
    if unread:
        advice = "gRPC reads lower-case names alone: set those too, or give --proxy."
        return warning(name, f"{found}; ignored: {', '.join(unread)}", advice)
    if any(_has_password(environment.get(variable, "")) for variable in PROXY_VARIABLES):
        advice = "Every process of this user reads it there: give `worker join --proxy-file` instead."
        return warning(name, f"{found}, with a password inside", advice)
    return ok(name, found)


def _has_password(url: str) -> bool:
    try:
        return urlsplit(url).password is not None
    except ValueError:
        return False


def port(listen: str) -> Finding:
    """Whether a coordinator could serve on ``listen`` (``address:port``) now."""
    name = "port"
    host, number = split_address(listen, "--listen")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a server would
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        advice = "Stop what listens there, or choose another port; below 1024 needs privileges."
        return problem(name, f"{listen}: {error.strerror or 'the address does not resolve'}", advice)
    return ok(name, f"{listen} is free")


def split_address(text: str, option: str) -> tuple[str, int]:
    """Name or address, and port, of ``name:port``; IPv6 addresses stand in brackets.

    Raises:
        UserError: it is something else.
    """
    host, _, number = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not number.isascii() or not number.isdecimal() or int(number) > _MAX_PORT:
        raise UserError(f"{option} is not name:port", "Write it like coordinator.example:8443.")
    return host, int(number)
