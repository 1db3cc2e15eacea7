"""Ports for processes that have to be told one before they listen."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

_LOWEST, _TRIES = 10_000, 1000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, below those that the kernel gives to whoever asks for any.

    One of those may be somebody's before the process that is told it has started: every connection takes one.
    """
    first_given = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32768
    for _ in range(_TRIES):
        port = _LOWEST + secrets.randbelow(first_given - _LOWEST)  # whatever seed a test sets
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError(f"no free port from {_LOWEST} to {first_given - 1}")
