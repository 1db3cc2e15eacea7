"""A software TPM as a process of its own, reached over one private socket. Trust zone: the platform.

There is no path and no port: one end of a socket pair is swtpm's, the other is the launcher's and then the enclave's.
So nobody else can talk to this TPM, and it ends when that other end is closed, however that happens. Where the launcher
is root it has a user of its own: what the enclave sends it is parsed by nobody who could do more than lose the seeds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from softtee.sealed import replaced
from softtee.surroundings import tpm_uid
from trusted.errors import Reason, TeeError
from trusted.evidence.tpm_client import TpmClient
from trusted.evidence.tpm_transport import SocketTransport

LOG = "swtpm.log"
_VERSION_TIMEOUT_S = 10
_END_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class RunningTpm:
    """A TPM after its start: every PCR is as a reset leaves it, and nobody has talked to it but the launcher.

    Attributes:
        process: swtpm.
        line: our end of its only connection; whoever holds it is the TPM's user.
    """

    process: subprocess.Popen[bytes]
    line: socket.socket

    @property
    def client(self) -> TpmClient:
        """Commands to this TPM; not after the line was given away."""
        return TpmClient(SocketTransport(self.line))


def installed() -> Path:
    """The program.

    Raises:
        TeeError: TEE_DEVICE_MISSING, and what to do. There is no stand-in.
    """
    found = shutil.which("swtpm")
    if found is None:
        raise TeeError(
            Reason.TEE_DEVICE_MISSING, "software TPM: no program swtpm on this machine; install it (apt install swtpm)"
        )
    return Path(found)


def version() -> str:
    """Name and version of the program, as it says itself.

    Raises:
        TeeError: TEE_DEVICE_MISSING, it is not there, or does not run.
    """
    command = [str(installed()), "--version"]
    try:
        said = subprocess.run(command, capture_output=True, check=True, timeout=_VERSION_TIMEOUT_S, env={})
    except (OSError, subprocess.SubprocessError):
        raise TeeError(Reason.TEE_DEVICE_MISSING, "software TPM: the program swtpm does not run") from None
    first = said.stdout.decode("ascii", "replace").partition(",")[0].split()  # TPM emulator version 0.7.1, Copyright …
    return f"swtpm {first[-1]}" if first else "swtpm"


@contextlib.contextmanager
def running(state: Path) -> Iterator[RunningTpm]:
    """A TPM that was just switched on and keeps its seeds in the folder ``state``; it ends with this context.

    Raises:
        TeeError: TEE_DEVICE_MISSING, no swtpm; LAUNCH_FAILED, it does not start: another enclave has this TPM.
    """
    program = installed()
    with contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        stack.enter_context(theirs)
        log = stack.enter_context(replaced(state / LOG))
        user = tpm_uid()
        if user is not None:
            for path in (state, *state.iterdir()):
                os.chown(path, user, user, follow_symlinks=False)
        command = [str(program), "socket", "--tpm2", "--tpmstate", "dir=.,mode=0600"]
        command += ["--fd", str(theirs.fileno()), "--flags", "not-need-init,startup-clear", "--terminate"]
        process = subprocess.Popen(
            command,
            env={},
            cwd=state,  # entered before the change of user, which could not get there by its path
            user=user,
            group=user,
            extra_groups=None if user is None else (),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        stack.callback(_end, process, ours)
        theirs.close()  # only swtpm may hold it now, or its end could not be noticed
        tpm = RunningTpm(process, ours)
        _require_answer(tpm, state)
        yield tpm


def _require_answer(tpm: RunningTpm, state: Path) -> None:
    try:
        tpm.client.random(1)
    except TeeError:
        raise TeeError(
            Reason.LAUNCH_FAILED,
            "software TPM: it does not start: another enclave has it, or its folder is damaged; give each enclave a "
            f"chip of its own; see {state / LOG}",
        ) from None


def _end(process: subprocess.Popen[bytes], line: socket.socket) -> None:
    """Hang up, and see to it that the process is gone: by itself, or by its id."""
    line.close()
    try:
        process.wait(_END_GRACE_S)
    except subprocess.TimeoutExpired:  # somebody still holds the line
        process.kill()
        process.wait()
