"""What an enclave inherits: memory nobody can change, a log it can only add to. Trust zone: the platform."""

from __future__ import annotations

import contextlib
import fcntl
import os
from io import BufferedWriter
from pathlib import Path

# fcntl(2): sealed against any change, and against taking the seals away.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def sealed(stack: contextlib.ExitStack, content: bytes) -> int:
    """A descriptor, closed with ``stack``, of memory that holds ``content`` for good."""
    descriptor = os.memfd_create("enclave", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as memory:
        memory.write(content)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def append_only(path: Path) -> BufferedWriter:
    """``path``, opened so that one can only add to it; made 0600, and never through a link."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return open(os.open(path, flags, 0o600), "ab")


def replaced(path: Path) -> BufferedWriter:
    """``path``, opened empty; made 0600, and never through a link."""
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return open(os.open(path, flags, 0o600), "wb")
