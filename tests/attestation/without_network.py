"""``python -m tests.attestation.without_network``: every vector judged where no IP socket can be opened.

Two ways, since verifiers are partly native code: Python's own calls fail loudly, and then the kernel refuses the
system call itself (seccomp), for every thread of this process.
"""

from __future__ import annotations

import ctypes
import socket
import sys
from typing import Any

from tests.attestation import test_all_vectors as vectors
from trusted import seccomp

_NO_NEW_PRIVS = 38


class NetworkUsed(BaseException):
    """Somebody asked for the network. Nobody catches it by accident."""


def _refuse(*arguments: Any, **options: Any) -> Any:
    raise NetworkUsed


def cut_off() -> None:
    """Take the network away from this process for good.

    Raises:
        RuntimeError: a socket can still be opened.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise RuntimeError("prctl: no_new_privs could not be set")
    if not seccomp.install(no_ip_sockets=True, allow_exec=False):
        raise RuntimeError("seccomp: no filter for this kernel or machine")
    try:
        socket.socket(socket.AF_INET).close()
    except OSError:
        pass
    else:
        raise RuntimeError("an IP socket can still be opened")
    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname"):
        setattr(socket, name, _refuse)


def main() -> int:
    """Judge every case; the count on stdout."""
    cut_off()
    judged = 0
    for vector in vectors.index():
        for case in vector.cases:
            vectors.judge(vector, case)
            judged += 1
    print("judged", judged)
    return 0


if __name__ == "__main__":
    sys.exit(main())
