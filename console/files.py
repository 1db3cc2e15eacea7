"""Reading and writing files: bounded, atomic, never over something else. Trust zone: the member's own machine."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from console.output import UserError

PRIVATE = 0o600
PUBLIC = 0o644
MAX_CA_BYTES = 1 << 18


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The bytes of ``path``, at most ``max_bytes`` of them.

    Raises:
        OSError: it cannot be read.
        UserError: it is larger.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UserError(f"{path}: larger than {max_bytes} bytes", "Check that the right file was given.")
    return data


def refuse_existing(*paths: Path, force: bool) -> None:
    """Refuse before anything is made, when a file would be replaced.

    Raises:
        UserError: one exists and ``force`` is not set.
    """
    for path in paths:
        if os.path.lexists(path) and not force:
            raise UserError(f"{path} exists", "Choose another name, or add --force to replace it.")


def write_file(path: Path, data: bytes, *, mode: int = PUBLIC, force: bool = False) -> None:
    """Write ``path`` whole or not at all, with ``mode`` from its first byte on; its folder is made when missing.

    Raises:
        OSError: it cannot be written.
        UserError: it exists and ``force`` is not set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_existing(path, force=force)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask says
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
