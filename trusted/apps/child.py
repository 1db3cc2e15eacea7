"""A confined child for code that is not our own: what it sheds, what it may reach, how it is spoken to.

Trust zone: every TEE that runs an app. The child is forked before keys exist, before threads start and before gRPC is
imported. Both ends of its channel read frames with a bound; the parent also with a deadline, because the child may say
anything, or nothing.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import trusted
from trusted.confinement import Confinement, Feature, confine
from trusted.wire import encode_json

MAX_FRAME_BYTES = 64 * 1024
MAX_FILE_BYTES = 64 * 1024 * 1024  # of each file in its scratch folder; stops an app that writes until the disk is full
_END_TIMEOUT_S = 5.0
START_TIMEOUT_S = 180.0  # importing torch from a cold disk
# What a child imports of us once it is confined. An installation that can be edited has it outside its prefix; what a
# measured launch loads lies in memory, and needs no file.
_OWN_PACKAGES = [
    Path(entry).with_name(name) for entry in trusted.__path__ for name in ("trusted", "worker", "coordinator")
]
# What an interpreter with torch reads besides its own installation; whatever does not exist is left out.
_SYSTEM_PATHS = (
    "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system", "/sys/fs/cgroup",
    "/dev/urandom", "/dev/null",
)  # fmt: skip


def become_alone(kept: tuple[int, ...], *, words: int, scratch: Path, threads: int, memory_bytes: int) -> None:
    """Shed what a fork inherits: objects' finalizers, the session, signal handlers, descriptors, environment.

    Args:
        kept: the descriptors that stay open beside the standard three.
        words: what standard output and errors become.
        scratch: an existing folder, the working directory from now on.
        threads: how many cores numeric libraries may use.
        memory_bytes: how much memory the child may ask for; 0: three quarters of the machine's.
    """
    gc.freeze()  # an object of the parent that is collected here would close a descriptor of ours
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (words, 1), (words, 2)):
        os.dup2(source, target)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):  # the listing's own, closed already
                os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    memory = memory_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))  # of each process; mapped libraries do not count
    with contextlib.suppress(OSError):  # where memory runs out all the same, the app goes first, not the session
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.umask(0o077)
    os.chdir(scratch)
    sys.dont_write_bytecode = True
    tempfile.tempdir = None  # the parent may have looked it up already; torch makes a cache folder there
    home, cores = str(scratch), str(threads)
    os.environ.clear()
    os.environ.update({"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": home, "TMPDIR": home})
    os.environ.update({"FLWR_HOME": home, "OMP_NUM_THREADS": cores, "MKL_NUM_THREADS": cores})


def confine_app(readable: tuple[Path, ...], *, scratch: Path) -> tuple[Feature, ...]:
    """Give up the network, other programs, and all files but the installation, ``readable`` and ``scratch``."""
    # Without the launcher's bytecode every import would compile anew: seconds for a framework.
    installed = [sys.prefix, sys.base_prefix, sys.pycache_prefix or sys.prefix, *(entry for entry in sys.path if entry)]
    found = [path for path in (*_OWN_PACKAGES, *map(Path, (*installed, *_SYSTEM_PATHS))) if path.exists()]
    return confine(
        Confinement(
            readable=(*found, *readable),
            writable=(scratch, Path(os.devnull)),
            connect_ports=(),
            allow_exec=False,
            allow_new_session=False,
        )
    )


def end_with_channel(descriptor: int) -> None:
    """Wait in a thread until the parent closes the channel, then end this session, whatever the app is at."""
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    poll.poll()
    os.killpg(0, signal.SIGKILL)


def end_child(pid: int, channel: socket.socket) -> None:
    """End the child ``pid`` and whatever it forked, and close its ``channel``; waits five seconds at most.

    A parent that has confined itself since may not signal it any more (Landlock's scope), so the child also ends itself
    when its channel closes. Should it do neither in time, it ends with its parent.
    """
    for kill in (os.killpg, os.kill):  # its whole session: the app may have forked; it alone before ``setsid``
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + _END_TIMEOUT_S
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.005)
    channel.close()


def write_frame(channel: socket.socket, value: dict[str, Any]) -> None:
    """Send ``value`` as one frame: its length (4), then canonical JSON."""
    data = encode_json(value)
    channel.sendall(len(data).to_bytes(4, "big") + data)


def read_frame(channel: socket.socket, deadline_s: float | None) -> bytes:
    """One frame, whole, before ``deadline_s`` of the monotonic clock.

    Raises:
        TimeoutError, OSError: no frame in time. EOFError: the peer ended, or announced more than 64 KiB.
    """
    size = int.from_bytes(_read_exactly(channel, 4, deadline_s), "big")
    if size > MAX_FRAME_BYTES:
        raise EOFError("frame: too large")
    return _read_exactly(channel, size, deadline_s)


def _read_exactly(channel: socket.socket, size: int, deadline_s: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if deadline_s is not None:
            channel.settimeout(
                max(deadline_s - time.monotonic(), 1e-3)
            )  # of the whole frame: a drip does not extend it
            if time.monotonic() > deadline_s:
                raise TimeoutError
        part = channel.recv(size - len(data))
        if not part:
            raise EOFError("frame: the peer has ended")
        data += part
    return bytes(data)


def say(text: str) -> None:
    """In a child: to wherever its words go, and nowhere else."""
    print(text, file=sys.stderr, flush=True)
