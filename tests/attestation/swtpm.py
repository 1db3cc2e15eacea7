"""A real software TPM over a private socket pair: no path, no port, and it ends with its test."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trusted.evidence.tpm_client import TpmClient
from trusted.evidence.tpm_transport import SocketTransport


@contextmanager
def software_tpm(state: Path) -> Iterator[TpmClient]:
    """A TPM, started and cleared, that keeps its state in the folder ``state``; the test is skipped without swtpm."""
    with software_tpm_transport(state) as transport:
        yield TpmClient(transport)


@contextmanager
def software_tpm_transport(state: Path) -> Iterator[SocketTransport]:
    """The same, for tests that stand between the TPM and its client."""
    program = shutil.which("swtpm")
    if program is None:
        pytest.skip("no swtpm: install it to test against a TPM (apt install swtpm)")
    ours, theirs = socket.socketpair()
    command = [program, "socket", "--tpm2", "--tpmstate", f"dir={state}", "--fd", str(theirs.fileno())]
    command += ["--flags", "not-need-init,startup-clear", "--terminate"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=quiet, stderr=quiet)
    theirs.close()
    transport = SocketTransport(ours)
    try:
        yield transport
    finally:
        transport.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
