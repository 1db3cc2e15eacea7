"""A deny-list of system calls, as a classic BPF program for seccomp(2). Trust zone: every TEE.

A deny-list and not an allow-list: torch, gRPC and glibc change the calls they make with every release, and a call that
is missing from an allow-list stops a hospital's run. Denied is what gives power over other processes, the kernel,
mounts and the clock, and what would go around the rules of ``trusted/confinement.py`` (io_uring opens sockets unseen).
Denied calls fail with EPERM, as if the process lacked a capability. Numbers: Linux ``arch/x86/entry/syscalls``,
``include/uapi/asm-generic/unistd.h``; the two tables stand in the same order.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
from dataclasses import dataclass

# BPF instruction codes (linux/bpf_common.h) and seccomp's return values and offsets (linux/seccomp.h).
_LOAD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_GREATER_EQUAL = 0x35
_JUMP_SET = 0x45
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000
_OFFSET_NUMBER = 0
_OFFSET_ARCH = 4
_OFFSET_ARGUMENT_0 = 16  # low half: both architectures are little-endian

_SET_MODE_FILTER = 1
_FLAG_TSYNC = 1
_X32_BIT = 0x40000000  # x86_64 answers a second set of numbers with this bit: they would go around the list
# CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET: a user namespace gives all capabilities back
_NEW_NAMESPACES = 0x7E020000

# Denied always: other processes, kernel and modules, mounts and namespaces, clock, keys, and io_uring.
_X86_64_DENIED = (
    *(101, 310, 311, 312, 438, 440, 155, 161, 165, 166, 167, 168, 169, 170, 171, 163, 135, 153, 103),
    *(246, 320, 175, 313, 176, 298, 321, 323, 248, 249, 250, 272, 308, 303, 304, 300, 179, 164, 227, 159, 305),
    *(425, 426, 427, 428, 429, 430, 431, 432, 433, 442, 172, 173),  # the last two: iopl, ioperm
)
_AARCH64_DENIED = (
    *(117, 270, 271, 272, 438, 440, 41, 51, 40, 39, 224, 225, 142, 161, 162, 89, 92, 58, 116),
    *(104, 294, 105, 273, 106, 241, 280, 282, 217, 218, 219, 97, 268, 264, 265, 262, 60, 170, 112, 171, 266),
    *(425, 426, 427, 428, 429, 430, 431, 432, 433, 442),
)


@dataclass(frozen=True, slots=True)
class _Architecture:
    audit: int  # AUDIT_ARCH_*
    seccomp: int
    socket: int
    clone: int
    clone3: int
    execve: int
    execveat: int
    new_session: tuple[int, ...]  # setpgid, setsid
    denied: tuple[int, ...]


_ARCHITECTURES = {
    "x86_64": _Architecture(0xC000003E, 317, 41, 56, 435, 59, 322, (109, 112), _X86_64_DENIED),
    "aarch64": _Architecture(0xC00000B7, 277, 198, 220, 435, 221, 281, (154, 157), _AARCH64_DENIED),
}
# Without IP, Unix sockets alone. With it, what names and addresses need; never packet, Bluetooth, AF_ALG, and so on.
_LOCAL_FAMILIES = (int(socket.AF_UNIX),)
_IP_FAMILIES = (*_LOCAL_FAMILIES, int(socket.AF_INET), int(socket.AF_INET6), 16, 40)  # 16 netlink, 40 vsock

_Instruction = tuple[int, int, int, int]


def _program(
    architecture: _Architecture, *, no_ip_sockets: bool, allow_exec: bool, allow_new_session: bool = True
) -> list[_Instruction]:
    """The filter: (code, jump if true, jump if false, operand) for each instruction."""
    deny = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    denied = architecture.denied + (() if allow_exec else (architecture.execve, architecture.execveat))
    denied += () if allow_new_session else architecture.new_session
    families = _LOCAL_FAMILIES if no_ip_sockets else _IP_FAMILIES
    program: list[_Instruction] = [
        # 1. Numbers mean something only for one architecture; a 32-bit call would be read by the wrong table.
        (_LOAD, 0, 0, _OFFSET_ARCH),
        (_JUMP_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _OFFSET_NUMBER),
        (_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT),
        deny,
        # 2. clone3 hides its flags behind a pointer: "not implemented" makes glibc use clone, whose flags are seen.
        (_JUMP_EQUAL, 0, 1, architecture.clone3),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for number in denied:
        program += [(_JUMP_EQUAL, 0, 1, number), deny]
    # 3. clone is for threads and forks, not for namespaces.
    program += [
        (_JUMP_EQUAL, 0, 4, architecture.clone),
        (_LOAD, 0, 0, _OFFSET_ARGUMENT_0),
        (_JUMP_SET, 0, 1, _NEW_NAMESPACES),
        deny,
        (_RETURN, 0, 0, _ALLOW),
    ]
    # 4. socket: the listed families alone. 5. Anything else is allowed.
    program += [(_JUMP_EQUAL, 0, 2 * len(families) + 2, architecture.socket), (_LOAD, 0, 0, _OFFSET_ARGUMENT_0)]
    for family in families:
        program += [(_JUMP_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    program += [(_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    return program


class _FilterProgram(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(*, no_ip_sockets: bool, allow_exec: bool, allow_new_session: bool = True) -> bool:
    """Whether the filter holds now, for every thread. It cannot be taken back. Needs no_new_privs.

    False on an architecture without a table, or a kernel without seccomp: the caller reports it, and never assumes it.
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None or struct.calcsize("P") != 8:
        return False
    program = _program(
        architecture, no_ip_sockets=no_ip_sockets, allow_exec=allow_exec, allow_new_session=allow_new_session
    )
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_FLAG_TSYNC))
    filter_program = _FilterProgram(len(program), code)
    return bool(libc.syscall(ctypes.c_long(architecture.seccomp), *arguments, ctypes.byref(filter_program)) == 0)
