"""Root mode: an enclave leaves the host's files, network and user before any measured code runs.

Trust zone: the platform (measured as ``launcher``). Runs in the enclave's own process, single-threaded and before the
import of anything but the standard library; there is no exec afterwards, because exec would make the process dumpable
again. The interpreter may lie under a directory that only root can enter, which is why it is bound and not opened.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_CAPBSET_DROP = 24
_LAST_CAPABILITY = 63  # the kernel refuses what it does not know
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def isolate(plan: Mapping[str, Any] | None) -> list[str]:
    """Enter the private root that ``plan`` describes, as an unprivileged user; the names of what took effect.

    ``None`` (not root, or a container that allows no mounts): only capabilities are given up.

    Raises:
        OSError: a step failed. The process must not go on: it would be less isolated than it says.
    """
    if plan is None:
        return _drop_capabilities()
    flags = _CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWUTS | (_CLONE_NEWNET if plan["own_network"] else 0)
    _check(_libc.unshare(flags), "unshare")
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    private = os.umask(0o022)  # the directories of the new root are entered by another user
    _build(plan)
    os.umask(private)
    _pivot(plan["root"])
    _check(_libc.sethostname(b"enclave", 7), "sethostname")
    held = _drop_capabilities(uid=plan["uid"])
    return [*held, "own-uid", "own-mounts", "own-ipc", *["own-network"] * bool(plan["own_network"])]


def _build(plan: Mapping[str, Any]) -> None:
    """A tmpfs that holds exactly the named paths, under their own names."""
    root = Path(plan["root"])
    _mount("tmpfs", str(root), "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    for path, target in plan["links"]:
        _below(root, path).parent.mkdir(parents=True, exist_ok=True)
        _below(root, path).symlink_to(target)
    for path in ("/proc", "/dev"):
        _below(root, path).mkdir()
    # hidepid=2: other users' processes are not even listed.
    _mount("proc", str(_below(root, "/proc")), "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_RDONLY, "hidepid=2")
    for path in ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"):
        _bind(root, path, _MS_NOSUID | _MS_NOEXEC)
    for path in plan["private"]:
        _below(root, path).mkdir(parents=True, exist_ok=True)
        _mount("tmpfs", str(_below(root, path)), "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=0700,uid={plan['uid']}")
    # Parents first, so that a path inside another one lies on top of it.
    for path, writable in sorted(plan["binds"]):
        _bind(root, path, _MS_NOSUID | _MS_NODEV | (_MS_NOEXEC if writable else _MS_RDONLY))


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _bind(root: Path, path: str, flags: int) -> None:
    source, target = Path(path).resolve(), _below(root, path)
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(str(source), str(target), None, _MS_BIND)
    _mount(None, str(target), None, _MS_REMOUNT | _MS_BIND | flags)


def _pivot(root: str) -> None:
    """Make ``root`` the only file system of this process; the host's is detached, not merely hidden."""
    os.chdir(root)
    _check(_libc.syscall(ctypes.c_long(_pivot_root_number()), b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")
    _mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _pivot_root_number() -> int:
    numbers: Mapping[str, int] = {"x86_64": 155, "aarch64": 41}
    return numbers[os.uname().machine]


def _drop_capabilities(uid: int | None = None) -> list[str]:
    """No capability now nor after any later step; with ``uid``, no group and no uid but that one."""
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), *(ctypes.c_ulong(0),) * 3)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    return ["no-capabilities"] if _libc.capset(header, (ctypes.c_uint32 * 6)()) == 0 else []


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    arguments: Sequence[bytes | None] = [
        None if text is None else os.fsencode(text) for text in (source, target, kind, options)
    ]
    result = _libc.mount(*arguments[:3], ctypes.c_ulong(flags), arguments[3])
    _check(result, f"mount on {target}")


def _check(result: int, step: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{step}: {os.strerror(error)}")
