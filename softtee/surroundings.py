"""What an enclave finds around itself: environment, files, user. Trust zone: the platform.

Nothing here is secret and nothing secret may come here: the host reads the environment and arguments of processes.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from softtee.measure import Interpreter

# An unprivileged number that no distribution gives away. All enclaves of a machine share it, and are kept apart by
# their own file systems, by not being dumpable, and by Landlock's scope for signals.
ENCLAVE_UID = 23457
_TPM_UID = 23458

_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/lib32", "/proc", "/sys/devices/system/cpu", "/etc/ld.so.cache", "/etc/localtime"),
    *("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/ssl"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

# Can this process have file systems of its own? Tried in a child, because a namespace cannot be left again.
_PROBE = """
import ctypes, sys
c = ctypes.CDLL(None)
ok = c.unshare(0x00020000) == 0 and c.mount(None, b"/", None, ctypes.c_ulong(16384 | 1 << 18), None) == 0
ok = ok and c.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(0), b"hidepid=2") == 0
sys.exit(not (ok and c.mount(b"tmpfs", b"/", b"tmpfs", ctypes.c_ulong(0), None) == 0))
"""


@functools.cache
def own_mounts_possible() -> bool:
    """Whether this process is root and may give an enclave its own file systems. Most containers say no."""
    if os.geteuid() != 0:
        return False
    command = [str(Interpreter.running().executable), "-I", "-S", "-c", _PROBE]
    return subprocess.run(command, env={}, stdin=subprocess.DEVNULL, check=False, capture_output=True).returncode == 0


def enclave_uid() -> int:
    """The user that enclaves started here run as.

    Whoever calls the launcher gives this user what it must reach: a socket it may connect to, data it may read
    (``os.chown(path, enclave_uid(), -1)``). Parent directories do not matter where enclaves have their own mounts.
    """
    return ENCLAVE_UID if own_mounts_possible() else os.geteuid()


def tpm_uid() -> int | None:
    """The user that software TPMs started here run as, which no enclave has; None: the launcher's own."""
    return _TPM_UID if own_mounts_possible() else None


def environment(private: Path, threads: int) -> dict[str, str]:
    """The whole environment of an enclave. ``private`` is its own temporary directory."""
    place = str(private)
    return {
        **dict.fromkeys(("HOME", "FLWR_HOME", "TMPDIR", "XDG_CACHE_HOME"), place),
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        "USER": "enclave",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        # Fewer page faults when buffers of megabytes come and go: +30 to 80 % throughput.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
    }


def _existing(paths: Iterable[str | Path]) -> tuple[str, ...]:
    return tuple(str(path) for path in paths if Path(path).exists())


def readable_paths(interpreter: Interpreter, bytecode: Path) -> tuple[str, ...]:
    """What every enclave may read: the system's libraries, the measured interpreter and packages, and their bytecode.

    ``/proc`` is its own with own mounts. Without them it is the host's: Landlock keeps it from the memory, environment
    and descriptors of processes that are not its children, but their names and arguments are seen.
    """
    measured = (interpreter.standard_library, interpreter.site, bytecode, interpreter.executable)
    library = () if interpreter.library is None else (interpreter.library, interpreter.library.parent)
    return _existing((*_SYSTEM, *measured, *library, *_DEVICES))


def isolation_plan(
    root: Path, *, readable: Iterable[str], writable: Iterable[str], own_network: bool
) -> dict[str, object] | None:
    """What ``softtee/isolation.py`` shall do, as JSON; None where this process may not have its own mounts."""
    if not own_mounts_possible():
        return None
    for path in readable:
        if Path(path).stat().st_mode & (0o005 if Path(path).is_dir() else 0o004) == 0 and not _is_of_enclave(path):
            raise ValueError(f"{path}: uid {ENCLAVE_UID} must be able to read it (chmod -R o+rX, or chown)")
    modes = {path: False for path in readable if not path.startswith(("/proc", "/dev/")) and not _is_system_link(path)}
    modes |= {path: True for path in writable if not path.startswith("/dev/") and path != str(root)}
    return {
        "root": str(root),
        "links": [(path, os.readlink(path)) for path in readable if _is_system_link(path)],
        "private": [str(root), "/dev/shm"],  # noqa: S108 - the enclave's own, empty and in its own memory
        "binds": sorted(modes.items()),
        "uid": ENCLAVE_UID,
        "own_network": own_network,
    }


def _is_of_enclave(path: str) -> bool:
    return Path(path).stat().st_uid == ENCLAVE_UID


def _is_system_link(path: str) -> bool:
    """``/lib -> usr/lib``: stays a link, so that one directory does not appear twice."""
    return Path(path).is_symlink() and Path(path).parent == Path("/") and not os.path.isabs(os.readlink(path))
