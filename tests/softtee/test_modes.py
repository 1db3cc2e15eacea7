"""The launcher's other two modes: without root, and as root in a container that allows no mounts.

Each runs the whole of ``test_launcher.py`` again, and what an enclave remembers, in a process that has less to begin
with; what cannot hold there is skipped by name, and everything else must.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from softtee.program import REPOSITORY
from softtee.surroundings import own_mounts_possible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not own_mounts_possible(), reason="needs root and mount namespaces to take them away"),
]
_UNPRIVILEGED = 23999
_MEMORY = (
    "test_a_record_of_one_start_is_read_by_the_next",
    "test_a_child_that_was_not_given_the_folder_cannot_reach_it_nor_can_another_enclave",
)

# A container's root: no CAP_SYS_ADMIN (21), so no namespaces and no mounts.
_CONTAINER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

# Another user. The interpreter may lie below a directory that only root may enter: there, and only in the child's own
# mount namespace, that directory is replaced by one that holds nothing but the interpreter.
_USER = """
import ctypes, os, sys
uid, hidden, prefix = int(sys.argv[1]), sys.argv[2], sys.argv[3]
libc = ctypes.CDLL(None)
if hidden:
    assert libc.unshare(0x00020000) == 0
    kept = os.open(prefix, os.O_PATH)
    assert libc.mount(None, b"/", None, ctypes.c_ulong(16384 | 1 << 18), None) == 0
    assert libc.mount(b"tmpfs", hidden.encode(), b"tmpfs", ctypes.c_ulong(0), b"mode=0755") == 0
    os.makedirs(prefix)
    assert libc.mount(b"/proc/self/fd/%d" % kept, prefix.encode(), None, ctypes.c_ulong(4096), None) == 0
    os.close(kept)
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
os.execv(sys.executable, [sys.executable, *sys.argv[4:]])
"""


def run_again(start: list[str], place: Path) -> str:
    """The summary of test_launcher.py and two of test_memory.py, in a process that ``start`` begins; all must pass."""
    here = Path(__file__).parent
    files = [str(here / "test_launcher.py"), *(f"{here / 'test_memory.py'}::{name}" for name in _MEMORY)]
    arguments = ["-m", "pytest", *files, "-q", "-rs", "-p", "no:cacheprovider", f"--basetemp={place}/pytest"]
    done = subprocess.run(
        [sys.executable, "-B", "-c", *start, "-B", *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "HOME": str(place), "TMPDIR": str(place), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hidden_directory() -> Path | None:
    """The first directory on the way to the interpreter that other users may not enter."""
    for path in reversed(Path(sys.base_prefix).parents):
        if not path.stat().st_mode & 0o001:
            return path
    return None


def test_the_same_holds_without_root() -> None:
    hidden = hidden_directory()
    needed = (REPOSITORY, Path(sysconfig.get_paths()["purelib"]))
    if any(not parent.stat().st_mode & 0o001 for path in needed for parent in (path, *path.parents)):
        pytest.skip("another user cannot enter the repository or the installed packages")
    place = Path("/var/tmp") / f"softtee-{os.getpid()}"  # every parent of it can be entered by another user
    place.mkdir()
    try:
        os.chown(place, _UNPRIVILEGED, _UNPRIVILEGED)
        summary = run_again([_USER, str(_UNPRIVILEGED), str(hidden or ""), sys.base_prefix], place)
    finally:
        shutil.rmtree(place)
    assert re.search(r"\d{2} passed, \d skipped", summary), summary


def test_the_same_holds_in_a_container_that_allows_no_mounts() -> None:
    with tempfile.TemporaryDirectory() as place:  # short: the path of a Unix socket has 108 bytes
        summary = run_again([_CONTAINER], Path(place))
    assert re.search(r"\d{2} passed, \d skipped", summary), summary
