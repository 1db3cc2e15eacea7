"""An enclave's temporary directory: gone when the enclave is, even if its launcher was killed. Zone: the platform.

With its own mounts an enclave gets memory under this name and the directory stays empty. Without them it is a real one,
and what a killed launcher left behind may hold a member's data: the next start of the same user removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from softtee.digests import locked

_PREFIX = "run-"


def scratch(stack: contextlib.ExitStack, state: Path) -> Path:
    """A new private directory below ``state``, removed with ``stack``; those that nobody holds any more go now."""
    with locked(state / "runs.lock"):
        for left in state.glob(f"{_PREFIX}*"):
            _remove_if_abandoned(left)
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=state))
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        # Held for as long as this process lives, however it ends: that is how a later start tells.
        stack.callback(os.close, _lock(path))
    return path


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_if_abandoned(path: Path) -> None:
    try:
        descriptor = _lock(path)
    except OSError:  # somebody lives there, or it is no directory of ours
        return
    shutil.rmtree(path, ignore_errors=True)
    os.close(descriptor)
