"""The sealing keys of a made-up processor: one secret in the chip's folder, one key for each enclave.

Trust zone: the software TEE, which plays the processor and protects nothing: whoever reads the folder has every key.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trusted.evidence.sealing import KEY_BYTES
from trusted.wire import pack

SECRET = "sealing.key"  # noqa: S105 - a file's name
_LABEL = "cloister/software-sealing/v1"


def chip_secret(chip: Path) -> bytes:
    """The sealing secret in a chip's folder, 32 bytes; made now where the chip is older than sealing.

    Raises:
        OSError: it can neither be read nor made.
        ValueError: the file is another one.
    """
    path = chip / SECRET
    if not path.exists():
        _make(path)
    secret = path.read_bytes()
    if len(secret) != KEY_BYTES:
        raise ValueError(f"{SECRET}: {KEY_BYTES} bytes expected")
    return secret


def enclave_key(secret: bytes, *, chip_id: bytes, measurement: bytes, role: str) -> bytes:
    """The key, 32 bytes, of the enclave measured as ``measurement`` in ``role`` on the chip ``chip_id``."""
    info = pack(_LABEL, chip_id, measurement, role.encode("ascii"))
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def _make(path: Path) -> None:
    """Write a new secret whole, and never in the place of another: two enclaves may start at once on one chip."""
    partial = path.with_name(f".{SECRET}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink()
