"""Checks of a worker's folder: its papers are there, and its keys are nobody else's to read. Trust zone: operator."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from console import keyfiles
from console.finding import Finding, ok, problem, warning
from console.joining import SITE_POLICY

_NEEDED = (keyfiles.WORKER_KEY, keyfiles.CREDENTIAL, SITE_POLICY)
_SECRET = (keyfiles.WORKER_KEY, keyfiles.SIGNING_KEY, keyfiles.SEALING_KEY)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_ANY = stat.S_IRWXG | stat.S_IRWXO


def site(folder: Path) -> Iterator[Finding]:
    """Findings about ``folder``, as ``cloister worker join --site`` needs it. No file is opened."""
    name = "site folder"
    if not folder.is_dir():
        yield problem(name, f"{folder}: no such folder", "Make it: cloister member credential --out FOLDER.")
        return
    missing = [needed for needed in _NEEDED if not (folder / needed).is_file()]
    if missing:
        advice = "Make them: `cloister member credential`, then `cloister site-policy new` and `sign`."
        yield problem(name, f"{folder}: missing {', '.join(missing)}", advice)
    elif os.stat(folder).st_mode & _OTHERS_WRITE:
        yield problem(name, f"{folder}: others may write to it", f"chmod go-w {folder}")
    else:
        yield ok(name, f"{folder} has {', '.join(_NEEDED)}")
    for secret in _SECRET:
        path = folder / secret
        if os.path.lexists(path):
            yield _secret(path)


def _secret(path: Path) -> Finding:
    """A private key is a plain file that its owner alone can read."""
    status = path.lstat()
    name = f"key {path.name}"
    if not stat.S_ISREG(status.st_mode):
        return problem(name, "not a plain file", "Put the key itself here, not a link to it.")
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS_ANY:
        advice = f"chmod 600 {path}; if others may have read it, make a new one."
        return problem(name, f"mode {mode:04o}: others may reach it", advice)
    if status.st_uid != os.geteuid():
        return warning(name, "it belongs to another user", "Run the worker as the user who owns the key.")
    return ok(name, f"mode {mode:04o}, its owner's alone")
