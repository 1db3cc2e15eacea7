"""An enclave of the software TEE, really started: what it can prove, and what it cannot do."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import py_compile
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from softtee.chip import SoftwareRoot
from softtee.digests import DigestCache
from softtee.enclave import Enclave, answer
from softtee.launcher import Launch, launch
from softtee.measure import Interpreter, default_state, measure
from softtee.program import PROGRAMS, REPOSITORY, Program
from softtee.scratch import scratch
from softtee.sealed import append_only, sealed
from softtee.surroundings import enclave_uid, own_mounts_possible
from trusted.attestation.appraise import verify
from trusted.attestation.binding import host_data
from trusted.attestation.evidence import Evidence
from trusted.confinement import Feature, landlock_abi
from trusted.errors import Reason, TeeError
from trusted.evidence.boot import Role

Run = Callable[..., tuple[Enclave, dict[str, Any]]]
needs_landlock = pytest.mark.skipif(landlock_abi() < 1, reason="this kernel has no Landlock")
needs_mounts = pytest.mark.skipif(not own_mounts_possible(), reason="needs root and mount namespaces")


def test_evidence_verifies_and_names_measurement_and_documents(
    run: Run, start: Launch, software_root: SoftwareRoot, now: datetime
) -> None:
    enclave, found = run()
    claims = verify(Evidence.decode(bytes.fromhex(found["evidence"])), [software_root.trust_root], now).claims
    assert enclave.wait(1) == 42
    assert claims.launch.measurement == enclave.measurement.value
    assert claims.host_data == host_data("worker", start.charter_digest, start.plan_digest)
    assert claims.report_data.hex() == start.options["report_data"]
    assert (found["role"], found["documents"]) == ("worker", ["the charter", "the plan"])


def test_code_runs_from_the_measured_archive_even_when_a_shadow_lies_on_every_path(
    run: Run, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (site, tmp_path / "cwd"):
        (place / "trusted").mkdir(parents=True)
        (place / "trusted" / "__init__.py").write_text("raise SystemExit('the shadow ran')")
    monkeypatch.chdir(tmp_path / "cwd")
    enclave, found = run()
    assert enclave.wait(1) == 42
    assert found["origin"] == "measured:trusted/evidence/boot"


def test_project_code_that_was_not_measured_cannot_be_imported(run: Run, site: Path) -> None:
    (site / "console").mkdir()
    (site / "console" / "__init__.py").touch()
    _, found = run({"import": ["console", "trusted.nothing", "json.tool"]})
    assert found["import"] == {
        "console": "ModuleNotFoundError",
        "trusted.nothing": "ModuleNotFoundError",
        "json.tool": "allowed",
    }


def test_unmeasured_bytecode_never_runs(run: Run, site: Path, start: Launch) -> None:
    measurement = measure_of(start)
    (site / "sneaky.py").write_text("raise SystemExit")
    py_compile.compile(str(site / "sneaky.py"), cfile=str(site / "sneaky.pyc"))
    (site / "sneaky.py").unlink()
    source = site / "rfc8785" / "__init__.py"
    honest = source.read_bytes()
    status = source.stat()
    poison = b"raise SystemExit('poison')".ljust(len(honest))
    source.write_bytes(poison)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    py_compile.compile(str(source), cfile=importlib.util.cache_from_source(str(source)))
    source.write_bytes(honest)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    enclave, found = run({"import": ["rfc8785", "sneaky"]})
    assert enclave.measurement.value == measurement
    assert found["import"] == {"rfc8785": "allowed", "sneaky": "ModuleNotFoundError"}


def measure_of(start: Launch) -> bytes:
    """The measurement of ``start``, from a cache of its own."""
    return measure(
        start.role,
        program=start.program,
        lock=start.lock,
        interpreter=start.interpreter,
        cache=DigestCache(start.state or default_state()),
    ).value


def test_no_ip_socket_without_network(run: Run) -> None:
    enclave, found = run()
    assert Feature.NO_IP_SOCKETS in enclave.features
    assert found["ip"] == "OSError"
    assert run(network=True)[1]["ip"] == "allowed"


def test_network_is_reported_as_open_when_it_is(run: Run) -> None:
    enclave, _ = run(network=True)
    assert not {Feature.NO_IP_SOCKETS, Feature.OWN_NETWORK, Feature.TCP_PORTS} & set(enclave.features)


@needs_landlock
def test_only_listed_files_can_be_read_and_written(run: Run, start: Launch, tmp_path: Path) -> None:
    listed, unlisted, directory = tmp_path / "listed", tmp_path / "unlisted", tmp_path / "door"
    for path in (listed, unlisted):
        path.write_text("data")
        path.chmod(0o644)
    directory.mkdir()
    os.chown(directory, enclave_uid(), -1)
    key = next(start.chip_directory.iterdir())
    options = {
        "read": [str(listed), str(unlisted), str(key)],
        "write": [f"{directory}/new", f"{tmp_path}/new"],
        "append": [str(listed)],
    }
    _, found = run(options, readable=(listed,), writable=(directory,))
    assert found["read"].pop(str(listed)) == "allowed"
    assert not {"allowed"} & set(found["read"].values())
    assert found["write"].pop(f"{directory}/new") == "allowed"
    assert not {"allowed"} & {*found["write"].values(), *found["append"].values()}
    assert found["temporary"] == "allowed"


@needs_landlock
def test_code_and_bytecode_cannot_be_written(run: Run, site: Path, state: Path) -> None:
    bytecode = state / "bytecode"
    _, found = run({"write": [f"{site}/x.py", f"{site}/rfc8785/x.py", f"{bytecode}/x", "/usr/lib/x.py"]})
    assert not {"allowed"} & set(found["write"].values())


def test_sealed_memory_cannot_be_changed() -> None:
    with contextlib.ExitStack() as stack:
        descriptor = sealed(stack, b"code")
        with pytest.raises(PermissionError):
            os.write(descriptor, b"other")
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        with open(f"/proc/self/fd/{descriptor}", "rb") as memory:
            assert memory.read() == b"code"


def test_log_is_never_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        append_only(tmp_path / "log")


def test_a_second_confinement_only_tightens(run: Run) -> None:
    child = run()[1]["child"]
    assert child["ip"] == "OSError"
    assert child["exec"] == "PermissionError"
    if landlock_abi() >= 1:
        assert child["temporary"] == "PermissionError"


def test_nothing_but_what_is_needed_is_in_environment_and_arguments(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    _, found = run()
    assert "AWS_SECRET_ACCESS_KEY" not in found["environment"]
    assert not [name for name in found["environment"] if name.startswith(("PYTHON", "LD_", "CLOISTER"))]
    assert found["arguments"] == ["enclave"]


def test_exec_and_signals_to_its_parent_are_out_of_reach(run: Run) -> None:
    found = run()[1]
    assert found["exec"] == "PermissionError"
    if landlock_abi() >= 6:
        assert found["parent"] == "PermissionError"


@pytest.mark.skipif(os.geteuid() == 0 and not own_mounts_possible(), reason="the enclave's user is the machine's root")
def test_memory_and_environment_are_closed_to_other_processes_of_the_same_user(sleeper: Enclave) -> None:
    assert Feature.NOT_DUMPABLE in sleeper.features
    user = enclave_uid() if os.geteuid() == 0 else None
    for file in ("environ", "mem", "maps"):
        command = ["head", "-c", "1", f"/proc/{sleeper.pid}/{file}"]
        done = subprocess.run(command, user=user, cwd="/", capture_output=True, text=True, check=False)
        assert "Permission denied" in done.stderr


def test_an_enclave_dies_with_its_launcher(start: Launch, program: Program) -> None:
    """The launcher runs in a forked process that is killed: what it started must not go on without it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            enclave = launch(replace(start, program=_sleeping(program)))
            os.write(write_end, str(enclave.pid).encode())
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(write_end)
    enclave_pid = int(os.read(read_end, 20))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 5
    while _runs(enclave_pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(enclave_pid)


def _runs(pid: int) -> bool:
    """Whether process ``pid`` is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _sleeping(program: Program) -> Program:
    """A program that does nothing for a minute."""
    (program.root / "probe" / "sleep.py").write_text("import time\ndef main(boot):\n    time.sleep(60)\n    return 0\n")
    return replace(program, entry="probe.sleep:main")


@pytest.fixture
def sleeper(start: Launch, program: Program) -> Iterator[Enclave]:
    """An enclave that runs."""
    enclave = launch(replace(start, program=_sleeping(program)))
    yield enclave
    enclave.terminate()


@needs_mounts
def test_root_mode_takes_its_own_user_mounts_and_network(run: Run) -> None:
    enclave, found = run({"read": ["/etc/passwd", "/root/.profile"]})
    own = {Feature.OWN_UID, Feature.OWN_MOUNTS, Feature.OWN_NETWORK, Feature.OWN_IPC, Feature.NO_CAPABILITIES}
    assert own <= set(enclave.features)
    assert found["uid"] == enclave_uid() != os.getuid()
    assert "allowed" not in found["read"].values()


def test_enclave_reaches_a_unix_socket_in_a_directory_it_was_given(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "door"
    directory.mkdir()
    path = directory / "socket"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        os.chown(path, enclave_uid(), -1)
        door.listen()
        _, found = run({"connect": [str(path)]}, writable=(directory,))
        door.settimeout(5)
        peer, _ = door.accept()
        with peer:
            assert peer.recv(5) == b"hello"
    assert found["connect"] == {str(path): "allowed"}


def test_another_measurement_than_expected_is_refused_before_anything_starts(start: Launch) -> None:
    right = measure_of(start)
    wrong = right[:-1] + bytes([right[-1] ^ 1])
    for expected in (wrong, right[:-1], right + b"\0", b""):
        with pytest.raises(TeeError) as refused:
            launch(replace(start, expect=expected))
        assert refused.value.reason is Reason.LAUNCH_MEASUREMENT
    assert not start.log.exists()
    enclave = launch(replace(start, expect=right))
    assert enclave.wait(30) == 42


def test_an_enclave_that_fails_logs_where_and_never_what(run: Run, start: Launch) -> None:
    enclave, _ = run({"fail": True})
    lines = start.log.read_text().splitlines()
    last = json.loads(lines[-1])
    assert enclave.wait(1) == 70
    assert (last["event"], last["reason"]) == ("enclave-failed", "ValueError")
    assert "secret" not in start.log.read_text()
    assert start.log.stat().st_mode & 0o077 == 0


def test_an_entry_that_is_missing_is_one_line_in_the_log(start: Launch, program: Program) -> None:
    enclave = launch(replace(start, program=replace(program, entry="probe.nowhere:main")))
    assert enclave.wait(30) == 70
    assert "ModuleNotFoundError: probe.nowhere" in start.log.read_text()


def test_an_enclave_that_dies_early_is_an_error(start: Launch, interpreter: Interpreter, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(TeeError) as refused:
        launch(replace(start, interpreter=replace(interpreter, executable=broken)))
    assert refused.value.reason is Reason.LAUNCH_FAILED


def test_paths_that_do_not_exist_are_named_before_the_start(start: Launch, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", Path("relative")):
        with pytest.raises(ValueError, match="absolute path that exists"):
            launch(replace(start, readable=(path,)))


def test_terminate_ends_its_own_child(sleeper: Enclave) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.2)
    assert sleeper.terminate() < 0
    assert sleeper.terminate() < 0  # twice is no error, and reaches no other process


def test_private_files_are_removed_afterwards(run: Run, state: Path) -> None:
    run()
    deadline = time.monotonic() + 5
    while list(state.glob("run-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not list(state.glob("run-*"))


def test_what_a_killed_launcher_left_is_removed_and_what_is_in_use_is_not(state: Path) -> None:
    abandoned = state / "run-abandoned"
    abandoned.mkdir()
    (abandoned / "plaintext").touch()
    with contextlib.ExitStack() as first:
        used = scratch(first, state)
        (used / "file").touch()
        with contextlib.ExitStack() as second:
            other = scratch(second, state)
            assert not abandoned.exists()
            assert (used / "file").exists()
        assert not other.exists()
    assert not used.exists()


@pytest.mark.parametrize("request_bytes", [b"x" * 63, b"x" * 65, b"x", b"x" * 4096])
def test_the_platform_refuses_anything_but_64_bytes(request_bytes: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        theirs.sendall(request_bytes)
        answer(ours, lambda _: pytest.fail("was asked"), lambda: pytest.fail("was asked"))
        assert theirs.recv(10) == b""


def test_entries_and_packages_of_production_are_fixed_by_role() -> None:
    assert set(PROGRAMS) == set(Role)
    for program in PROGRAMS.values():
        assert program.root == REPOSITORY
        assert "trusted" in program.packages
        assert "coordinator" not in program.packages  # the untrusted host lies below it
