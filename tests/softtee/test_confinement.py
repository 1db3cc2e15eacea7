"""``trusted.confinement``, in processes of their own: what it takes away stays away."""

from __future__ import annotations

import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from softtee.program import REPOSITORY
from trusted import seccomp
from trusted.confinement import landlock_abi

needs_landlock = pytest.mark.skipif(landlock_abi() < 1, reason="this kernel has no Landlock")
needs_landlock_tcp = pytest.mark.skipif(landlock_abi() < 4, reason="this kernel's Landlock knows no TCP")
needs_seccomp = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no table for this machine")

_BEFORE = """
import ctypes, os, socket, sys
from pathlib import Path
from trusted.confinement import Confinement, Feature, confine

def tried(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "allowed"

libc = ctypes.CDLL(None, use_errno=True)
place = Path(sys.argv[1])
usr = tuple(path for path in map(Path, ("/usr", sys.base_prefix)) if path.exists())
"""


def confined(place: Path, script: str) -> list[str]:
    """The lines that ``script`` printed in a process of its own. It must end well."""
    code = _BEFORE + textwrap.dedent(script)
    command = [sys.executable, "-B", "-c", code, str(place)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_landlock
def test_files_outside_of_the_lists_are_gone(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "file").write_text("x")
    (tmp_path / "other").write_text("x")
    lines = confined(
        tmp_path,
        """
        held = confine(Confinement((*usr, place / "given"), (), None, True))
        print(Feature.FILES in held, Feature.NO_EXEC in held)
        print(tried(lambda: open(place / "given/file")), tried(lambda: open(place / "other")))
        print(tried(lambda: open(place / "given/file", "w")), tried(lambda: os.listdir(place)))
        """,
    )
    assert lines == ["True False", "allowed PermissionError", "PermissionError PermissionError"]


@needs_landlock
def test_a_second_call_never_widens(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    lines = confined(
        tmp_path,
        """
        confine(Confinement(usr, (), (), False))
        confine(Confinement((*usr, place), (place,), None, True))
        print(tried(lambda: open(place / "file")), tried(lambda: open(place / "new", "w")))
        print(tried(lambda: socket.socket()), tried(lambda: os.execv("/bin/true", ["true"])))
        """,
    )
    assert lines == ["PermissionError PermissionError", "OSError PermissionError"]


@needs_landlock
def test_a_second_call_tightens(tmp_path: Path) -> None:
    lines = confined(
        tmp_path,
        """
        confine(Confinement(usr, (place,), None, True))
        print(tried(lambda: open(place / "a", "w")), tried(lambda: socket.socket()))
        confine(Confinement(usr, (), (), False))
        print(tried(lambda: open(place / "b", "w")), tried(lambda: socket.socket()))
        """,
    )
    assert lines == ["allowed allowed", "PermissionError OSError"]


@needs_landlock_tcp
def test_only_the_named_port_is_reached_and_none_is_served(tmp_path: Path) -> None:
    lines = confined(
        tmp_path,
        """
        servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        ports = [server.getsockname()[1] for server in servers]
        held = confine(Confinement(usr, (), (ports[0],), False))
        print(Feature.TCP_PORTS in held, Feature.NO_IP_SOCKETS in held)
        print(*(tried(lambda port=port: socket.create_connection(("127.0.0.1", port), 2)) for port in ports))
        print(tried(lambda: socket.create_server(("127.0.0.1", 0))))
        """,
    )
    assert lines == ["True False", "allowed PermissionError", "PermissionError"]


@needs_seccomp
def test_power_over_other_processes_and_namespaces_is_denied(tmp_path: Path) -> None:
    lines = confined(
        tmp_path,
        """
        held = confine(Confinement(usr, (), None, True))
        print(Feature.SYSTEM_CALLS in held)
        def denied(result):
            return result == -1 and ctypes.get_errno() == 1
        print(denied(libc.ptrace(0, 0, 0, 0)), denied(libc.unshare(0x10000000)), denied(libc.mount(0, b"/", 0, 0, 0)))
        print(denied(libc.syscall(425, 1, 0)), denied(libc.personality(0x0040000)), tried(lambda: os.kill(1, 0)))
        print(tried(lambda: socket.socket(38, socket.SOCK_SEQPACKET)), tried(lambda: socket.socket()))
        """,
    )
    assert lines[0] == "True"
    assert lines[1] == "True True True"
    assert lines[2].startswith("True True")
    assert lines[3] == "OSError allowed"


@needs_seccomp
def test_threads_forks_and_pipes_still_work(tmp_path: Path) -> None:
    lines = confined(
        tmp_path,
        """
        import threading
        confine(Confinement(usr, (place,), (), False))
        thread = threading.Thread(target=lambda: print("thread", flush=True))
        thread.start(); thread.join()
        child = os.fork()
        if child == 0:
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(socket.socketpair()))
        """,
    )
    assert lines == ["thread", "7 2"]


def test_confinement_leaves_no_core_dump_and_no_way_to_be_traced(tmp_path: Path) -> None:
    lines = confined(
        tmp_path,
        """
        import resource
        held = confine(Confinement(usr, (), None, True))
        print(resource.getrlimit(resource.RLIMIT_CORE), libc.prctl(3, 0, 0, 0, 0), libc.prctl(39, 0, 0, 0, 0))
        """,
    )
    assert lines == ["(0, 0) 0 1"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("(place / 'missing',), (), None, True", "ValueError"),
        ("(), (place / 'missing',), None, True", "ValueError"),
        ("(), (), (0,), True", "ValueError"),
        ("(), (), (65536,), True", "ValueError"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_given_up(
    tmp_path: Path, arguments: str, error: str
) -> None:
    script = f"""
        try:
            confine(Confinement({arguments}))
        except ValueError as refused:
            print(type(refused).__name__, libc.prctl(39, 0, 0, 0, 0))
        """
    assert confined(tmp_path, script) == [f"{error} 0"]


def test_threads_that_already_run_are_refused(tmp_path: Path) -> None:
    lines = confined(
        tmp_path,
        """
        import threading
        done = threading.Event()
        threading.Thread(target=done.wait).start()
        try:
            confine(Confinement((), (), None, True))
        except RuntimeError as refused:
            print(type(refused).__name__)
        done.set()
        """,
    )
    assert lines == ["RuntimeError"]


def test_both_tables_deny_the_same_calls() -> None:
    """x86_64 has iopl and ioperm besides; everything else stands in both, in the same order."""
    tables = {name: architecture.denied for name, architecture in seccomp._ARCHITECTURES.items()}
    assert len(tables["x86_64"]) == len(tables["aarch64"]) + 2
    assert all(len(set(table)) == len(table) for table in tables.values())


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
@pytest.mark.parametrize("allow_new_session", [True, False])
@pytest.mark.parametrize(("no_ip_sockets", "allow_exec"), [(True, False), (False, True)])
def test_every_jump_of_the_filter_lands_inside_it(
    architecture: str, no_ip_sockets: bool, allow_exec: bool, allow_new_session: bool
) -> None:
    table = seccomp._ARCHITECTURES[architecture]
    allowed = {"allow_exec": allow_exec, "allow_new_session": allow_new_session}
    program = seccomp._program(table, no_ip_sockets=no_ip_sockets, **allowed)
    denied = {operand for code, _, _, operand in program if code == 0x15}
    assert allow_new_session == denied.isdisjoint(table.new_session)
    for index, (_, jump_true, jump_false, _) in enumerate(program):
        assert index + 1 + max(jump_true, jump_false) <= len(program) - (index + 1 < len(program))
    assert program[-1][0] == 0x06
