"""A process gives up what it does not need (Linux: Landlock, seccomp, prctl). Trust zone: every TEE.

Confinement is a second line, never evidence: it limits what a bug in trusted code, or a member's own training code,
can reach. Whoever calls it learns what *truly* took effect; nothing here claims what the kernel did not grant.
Everything is irrevocable for this process and its children, so a second call only tightens. Facts: Linux
``Documentation/userspace-api/landlock.rst``, ``seccomp(2)``, ``prctl(2)``. PR_SET_MDWE is left out: oneDNN needs a JIT.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path

from trusted import seccomp

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

# The same three numbers on every architecture since Linux 5.13.
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_RULE_PATH_BENEATH = 1
_RULE_NET_PORT = 2
_NET_BIND_TCP = 1
_NET_CONNECT_TCP = 2
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_MAKE_CHAR = 1 << 6
_MAKE_BLOCK = 1 << 11
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
_ON_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _READ_FILE | _READ_DIR
# All file rights that Landlock ABI 1, 2, 3 and 5 know. What a kernel does not know cannot be handled, nor granted.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}

_libc = ctypes.CDLL(None, use_errno=True)


@unique
class Feature(Enum):
    """One limit that holds for a process. Absence from a result means that it does **not** hold."""

    NO_CORE_DUMP = "no-core-dump"
    NOT_DUMPABLE = "not-dumpable"
    NO_NEW_PRIVILEGES = "no-new-privileges"
    DIES_WITH_PARENT = "dies-with-parent"
    FILES = "landlock-files"
    TCP_PORTS = "landlock-tcp"
    SCOPE = "landlock-scope"
    SYSTEM_CALLS = "seccomp"
    NO_IP_SOCKETS = "no-ip-sockets"
    NO_EXEC = "no-exec"
    NO_CAPABILITIES = "no-capabilities"
    OWN_UID = "own-uid"
    OWN_MOUNTS = "own-mounts"
    OWN_NETWORK = "own-network"
    OWN_IPC = "own-ipc"


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a process may still do.

    Attributes:
        readable: files and directories (with all below) it may read; each must exist.
        writable: the same for reading, writing, creating and removing.
        connect_ports: the TCP ports it may connect to; ``()`` is no socket but Unix ones; ``None`` leaves the network
            as it is. UDP is not limited by a list of ports, because names must be resolved.
        listen_ports: the TCP ports it may listen on; by default none.
        allow_exec: whether it may start other programs (from ``readable`` paths).
        allow_new_session: whether it may leave its process group; who may not, and all that it forks, ends with that.
    """

    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    connect_ports: tuple[int, ...] | None
    allow_exec: bool
    allow_new_session: bool = True
    listen_ports: tuple[int, ...] = ()


def confine(confinement: Confinement) -> tuple[Feature, ...]:
    """Give up for good all that ``confinement`` does not name, and tell which limits truly hold.

    Must run before threads start (Landlock holds for the calling thread and what it starts later). The parent-death
    signal is tied to the *thread* that forked this process: that thread must live as long as the child shall.

    Raises:
        ValueError: a path that does not exist, or a port out of range.
        RuntimeError: other Python threads run already.
    """
    if threading.active_count() != 1:
        raise RuntimeError("confine: must be called before threads start")
    for path in (*confinement.readable, *confinement.writable):
        if not path.exists():
            raise ValueError(f"confine: {path} does not exist; name only paths that do")
    if any(not 0 < port < 65536 for port in (*(confinement.connect_ports or ()), *confinement.listen_ports)):
        raise ValueError("confine: connect_ports, listen_ports: 1 to 65535 expected")
    held = [*_harden(), *_landlock(confinement)]
    no_ip_sockets = confinement.connect_ports == ()
    # Last: the filter denies nothing that the steps above need, but each step less under it is one less to get wrong.
    filtered = seccomp.install(
        no_ip_sockets=no_ip_sockets,
        allow_exec=confinement.allow_exec,
        allow_new_session=confinement.allow_new_session,
    )
    if filtered:
        held.append(Feature.SYSTEM_CALLS)
        held += [Feature.NO_IP_SOCKETS] * no_ip_sockets + [Feature.NO_EXEC] * (not confinement.allow_exec)
    return tuple(held)


def _harden() -> list[Feature]:
    """No core dump, no ptrace or /proc/<pid>/mem by the same uid, no setuid programs, no orphan."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    held = [Feature.NO_CORE_DUMP]
    steps = (
        (Feature.NOT_DUMPABLE, _PR_SET_DUMPABLE, 0),
        (Feature.NO_NEW_PRIVILEGES, _PR_SET_NO_NEW_PRIVS, 1),
        (Feature.DIES_WITH_PARENT, _PR_SET_PDEATHSIG, int(signal.SIGKILL)),
    )
    for feature, option, value in steps:
        if _libc.prctl(option, *(ctypes.c_ulong(word) for word in (value, 0, 0, 0))) == 0:
            held.append(feature)
    return held


class _RulesetAttr(ctypes.Structure):
    """``struct landlock_ruleset_attr``, ABI 6."""

    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    """``struct landlock_path_beneath_attr``."""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _NetPort(ctypes.Structure):
    """``struct landlock_net_port_attr``."""

    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


def landlock_abi() -> int:
    """The Landlock ABI of this kernel, 0 where there is none."""
    return max(0, int(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def _landlock(confinement: Confinement) -> list[Feature]:
    abi = landlock_abi()
    if abi < 1:
        return []
    rights = _FILE_RIGHTS[min(abi, 5)]
    limit_ports = abi >= 4 and confinement.connect_ports is not None
    attr = _RulesetAttr(fs=rights)
    if abi >= 4:
        attr.net = _NET_BIND_TCP | (_NET_CONNECT_TCP if limit_ports else 0)
    if abi >= 6:
        attr.scoped = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(attr), ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        execute = _EXECUTE if confinement.allow_exec else 0
        _allow_paths(ruleset, confinement.readable, (_READ | execute) & rights)
        written = rights & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)
        _allow_paths(ruleset, confinement.writable, written)
        if limit_ports:
            for port in confinement.connect_ports or ():
                _add_rule(ruleset, _RULE_NET_PORT, _NetPort(_NET_CONNECT_TCP, port))
        for port in confinement.listen_ports if abi >= 4 else ():
            _add_rule(ruleset, _RULE_NET_PORT, _NetPort(_NET_BIND_TCP, port))
        _syscall(_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return [Feature.FILES] + [Feature.TCP_PORTS] * limit_ports + [Feature.SCOPE] * (abi >= 6)


def _allow_paths(ruleset: int, paths: Sequence[Path], allowed: int) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            beneath = allowed if stat.S_ISDIR(os.fstat(descriptor).st_mode) else allowed & _ON_A_FILE
            _add_rule(ruleset, _RULE_PATH_BENEATH, _PathBeneath(beneath, descriptor))
        finally:
            os.close(descriptor)


def _add_rule(ruleset: int, kind: int, rule: ctypes.Structure) -> None:
    _syscall(_LANDLOCK_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(kind), ctypes.byref(rule), ctypes.c_uint32(0))


def _syscall(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"system call {number}: {os.strerror(error)}")
    return result
