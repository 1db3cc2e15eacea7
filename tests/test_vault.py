"""What an enclave remembers: it comes back whole to the same code, and to nothing else."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from trusted.attestation.evidence import Evidence
from trusted.errors import Reason, StateError, TeeError
from trusted.evidence.boot import Role
from trusted.evidence.sealing import derived_key
from trusted.vault import MAX_RECORD_BYTES, Vault

PLAN = b"\x01" * 32
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Machine:
    """A platform that derives keys from ``secret``: another machine or measurement has another one."""

    secret: bytes = b"s" * 32

    def evidence(self, report_data: bytes) -> Evidence:
        raise NotImplementedError

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        return ()

    def sealing_key(self, label: bytes) -> bytes:
        return derived_key(self.secret, label)


@dataclass(frozen=True)
class Forgetful:
    """A platform without a sealing key."""

    def evidence(self, report_data: bytes) -> Evidence:
        raise NotImplementedError

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        return ()


def vault(folder: Path, *, secret: bytes = b"s" * 32, role: Role = Role.WORKER, plan: bytes = PLAN) -> Vault:
    """The vault of one start."""
    return Vault.open(folder, Machine(secret), role, plan)


def refused(opened: Vault, name: str = "witness") -> StateError:
    with pytest.raises(StateError) as error:
        opened.read(name)
    assert error.value.reason is Reason.SEALED_STATE
    return error.value


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(4096), bytes(MAX_RECORD_BYTES)])
def test_a_record_comes_back_at_the_next_start(tmp_path: Path, content: bytes) -> None:
    vault(tmp_path).write("witness", content)
    assert vault(tmp_path).read("witness") == content


def test_a_record_that_was_never_written_is_none(tmp_path: Path) -> None:
    vault(tmp_path).write("witness", b"seen")
    assert vault(tmp_path).read("recovery-key") is None


def test_a_later_record_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    for content in (b"one", b"two", b""):
        vault(tmp_path).write("witness", content)
    assert vault(tmp_path).read("witness") == b""
    assert [path.name for path in tmp_path.iterdir()] == ["witness.sealed"]


def test_an_erased_record_is_gone_and_erasing_twice_is_no_error(tmp_path: Path) -> None:
    opened = vault(tmp_path)
    opened.write("witness", b"seen")
    opened.erase("witness")
    opened.erase("witness")
    assert opened.read("witness") is None
    assert list(tmp_path.iterdir()) == []


def test_another_machine_or_measurement_role_or_plan_cannot_read_it(tmp_path: Path) -> None:
    vault(tmp_path).write("witness", b"seen")
    refused(vault(tmp_path, secret=b"t" * 32))
    refused(vault(tmp_path, role=Role.AGGREGATOR))
    refused(vault(tmp_path, plan=b"\x02" * 32))
    assert vault(tmp_path).read("witness") == b"seen"


def test_a_record_under_another_name_is_refused(tmp_path: Path) -> None:
    vault(tmp_path).write("witness", b"seen")
    (tmp_path / "witness.sealed").rename(tmp_path / "recovery-key.sealed")
    refused(vault(tmp_path), "recovery-key")


def test_every_altered_bit_every_cut_and_every_byte_more_is_refused(tmp_path: Path) -> None:
    opened, path = vault(tmp_path), tmp_path / "witness.sealed"
    opened.write("witness", b"seen")
    honest = path.read_bytes()
    flipped = [
        honest[:at] + bytes([honest[at] ^ 1 << bit]) + honest[at + 1 :] for at in range(len(honest)) for bit in range(8)
    ]
    cut = [honest[:size] for size in range(len(honest))]
    for damaged in (*flipped, *cut, honest + b"\0", honest + honest):
        path.write_bytes(damaged)
        refused(opened)
    path.write_bytes(honest)
    assert opened.read("witness") == b"seen"


def test_an_older_copy_is_not_noticed_here(tmp_path: Path) -> None:
    """What the docstring says; the quorum of witnesses is for that."""
    opened, path = vault(tmp_path), tmp_path / "witness.sealed"
    opened.write("witness", b"old")
    copy = path.read_bytes()
    opened.write("witness", b"new")
    path.write_bytes(copy)
    assert opened.read("witness") == b"old"


def test_equal_contents_are_never_sealed_alike(tmp_path: Path) -> None:
    opened, path = vault(tmp_path), tmp_path / "witness.sealed"
    sealed = set()
    for _ in range(20):
        opened.write("witness", b"seen" * 10)
        sealed.add(path.read_bytes())
    assert len(sealed) == 20
    assert not any(b"seen" in content for content in sealed)


@pytest.mark.parametrize("name", ["", "a" * 65, "A", "a/b", "..", ".", "a.b", "a_b", "é", "a\0", "a\n"])
def test_other_names_are_the_callers_bug(tmp_path: Path, name: str) -> None:
    opened = vault(tmp_path)
    for act in (lambda: opened.read(name), lambda: opened.write(name, b""), lambda: opened.erase(name)):
        with pytest.raises(ValueError, match="1 to 64"):
            act()
    assert list(tmp_path.iterdir()) == []


def test_the_bounds_of_a_name_are_names(tmp_path: Path) -> None:
    for name in ("a", "0", "-", "a" * 64):
        vault(tmp_path).write(name, name.encode())
        assert vault(tmp_path).read(name) == name.encode()


def test_a_record_that_is_too_large_is_not_written(tmp_path: Path) -> None:
    opened = vault(tmp_path)
    opened.write("witness", b"seen")
    with pytest.raises(ValueError, match="at most"):
        opened.write("witness", bytes(MAX_RECORD_BYTES + 1))
    assert opened.read("witness") == b"seen"


def test_a_file_of_any_size_is_read_to_its_bound_alone(tmp_path: Path) -> None:
    with (tmp_path / "witness.sealed").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte, of nothing
    refused(vault(tmp_path))


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.sealed")
    (tmp_path / "link.sealed").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder.sealed").mkdir()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "socket.sealed"))
        for name in ("pipe", "link", "folder", "socket"):
            assert "a file expected" in refused(vault(tmp_path), name).detail


def test_a_write_never_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"x")
    for name in ("witness.sealed", "witness.partial"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    vault(tmp_path).write("witness", b"seen")
    assert (tmp_path / "elsewhere").read_bytes() == b"x"
    assert vault(tmp_path).read("witness") == b"seen"


def test_a_write_that_fails_leaves_the_earlier_record_and_no_other_file(tmp_path: Path) -> None:
    opened = vault(tmp_path)
    opened.write("witness", b"seen")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            opened.write("witness", bytes(8192))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert opened.read("witness") == b"seen"
    assert [path.name for path in tmp_path.iterdir()] == ["witness.sealed"]
    opened.write("witness", bytes(8192))  # and it goes on once the cause is gone
    assert opened.read("witness") == bytes(8192)


def test_what_a_kill_left_half_written_is_neither_read_nor_left(tmp_path: Path) -> None:
    opened = vault(tmp_path)
    (tmp_path / "witness.partial").write_bytes(b"half")
    assert opened.read("witness") is None
    opened.write("witness", b"seen")
    assert [path.name for path in tmp_path.iterdir()] == ["witness.sealed"]


_WRITER = """
import sys
from pathlib import Path
from tests.test_vault import vault
opened = vault(Path(sys.argv[1]))
number = int((opened.read("count") or b"0").split()[0])
print("ready", flush=True)
while True:
    number += 1
    opened.write("count", b"%d " % number + bytes([number % 256]) * 200_000)
    print(number, flush=True)
"""


def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_record_that_is_not_older_than_it_said(
    tmp_path: Path,
) -> None:
    for turn in range(8):
        command = [sys.executable, "-c", _WRITER, str(tmp_path)]
        writer = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(0.003 * turn)
        writer.send_signal(signal.SIGKILL)
        said = [int(line) for line in writer.communicate()[0].split("\n")[:-1]]
        content = vault(tmp_path).read("count")
        number = int((content or b"0").split()[0])
        assert number >= max(said, default=0)
        assert content is None or content == b"%d " % number + bytes([number % 256]) * 200_000
        assert {path.name for path in tmp_path.iterdir()} <= {"count.sealed", "count.partial"}


def test_threads_that_write_at_once_leave_one_whole_record(tmp_path: Path) -> None:
    opened = vault(tmp_path)
    contents = [bytes([number]) * 50_000 for number in range(8)]
    threads = [threading.Thread(target=opened.write, args=("witness", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened.read("witness") in contents
    assert [path.name for path in tmp_path.iterdir()] == ["witness.sealed"]


def test_only_its_own_user_may_read_a_record(tmp_path: Path) -> None:
    vault(tmp_path).write("witness", b"seen")
    assert (tmp_path / "witness.sealed").stat().st_mode & 0o777 == 0o600


def test_a_vault_does_not_show_its_key(tmp_path: Path) -> None:
    opened = vault(tmp_path)
    assert "cipher" not in repr(opened)


def test_a_platform_without_a_sealing_key_has_no_vault(tmp_path: Path) -> None:
    with pytest.raises(TeeError) as error:
        Vault.open(tmp_path, Forgetful(), Role.WORKER, PLAN)
    assert error.value.reason is Reason.TEE_NO_SEALING
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(OSError, match=path.name):
            vault(path)
    assert not (tmp_path / "none").exists()
