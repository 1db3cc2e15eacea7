"""What an enclave remembers across its own restarts: a few small records, sealed, in a folder of the host's.

Trust zone: every TEE; this does file I/O. The key comes back for the same code on the same machine alone, and each
record opens for its own role, plan and name. The host sees how many records there are, their names, sizes and times.
It can delete them and it can put an **older copy back: nothing here notices**. What must not go back is for a quorum of
witnesses to know (docs/protocol.md §12, docs/threat-model.md). One process at a time uses a folder.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trusted.errors import Reason, StateError, WireError
from trusted.evidence.boot import Role
from trusted.evidence.provider import EvidenceProvider
from trusted.evidence.sealing import sealing_key
from trusted.wire import exactly, pack, unpack

MAX_RECORD_BYTES = 1 << 20
_LABEL = "cloister/vault-record/v1"
_KEY_LABEL = "cloister/vault-key/v1"
_CONTEXT_LABEL = "cloister/vault-context/v1"
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_NONCE_BYTES = 12
_MAX_FILE_BYTES = MAX_RECORD_BYTES + 1024
# What stands under a record's name and is none: a link, a socket or a device without a driver.
_NOT_A_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV)


@dataclass(frozen=True, slots=True)
class Vault:
    """The records of one role in one plan. Names are 1 to 64 of a-z, 0-9 and ``-``. Thread-safe.

    Attributes:
        folder: where they lie; it exists.
        role, plan: whose they are; ``plan`` is the plan's digest, 32 bytes.
    """

    folder: Path
    role: Role
    plan: bytes
    _cipher: AESGCM = field(repr=False)
    _one_at_a_time: threading.Lock = field(repr=False, compare=False, default_factory=threading.Lock)

    @classmethod
    def open(cls, folder: Path, provider: EvidenceProvider, role: Role, plan: bytes) -> Vault:
        """The vault of ``role`` and ``plan`` (digest, 32 bytes) in ``folder``, under this platform's sealing key.

        Raises:
            TeeError: TEE_NO_SEALING, this platform has no key that outlives a restart; else, it gave none now.
            OSError: no such folder, or it cannot be entered.
        """
        exactly(plan, 32, "plan digest")
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        key = sealing_key(provider, pack(_KEY_LABEL, role.value.encode("ascii"), plan))
        return cls(folder, role, plan, AESGCM(key))

    def read(self, name: str) -> bytes | None:
        """The record ``name`` as some earlier write left it; None if there is none.

        Raises:
            StateError: SEALED_STATE: altered, cut, of another name, plan, role, machine or measurement, or no file.
            OSError: it cannot be read.
        """
        sealed = _read(self._path(name))
        if sealed is None:
            return None
        try:
            nonce, ciphertext = unpack(sealed, _LABEL, 2, max_bytes=_MAX_FILE_BYTES)
            return self._cipher.decrypt(exactly(nonce, _NONCE_BYTES, "nonce"), ciphertext, self._context(name))
        except (WireError, InvalidTag):
            raise StateError(
                Reason.SEALED_STATE, f"vault record {name}: altered, or of another machine, measurement, role or plan"
            ) from None

    def write(self, name: str, content: bytes) -> None:
        """Keep ``content``, at most 1 MiB, as ``name``. Once this returns it outlives a power cut; until then, and if
        it raises, the earlier record stands.

        Raises:
            ValueError: a name or a size that is out of bounds.
            OSError: it could not be written: the disk is full, or the folder is gone.
        """
        if len(content) > MAX_RECORD_BYTES:
            raise ValueError(f"vault record {name}: at most {MAX_RECORD_BYTES} bytes expected")
        path, nonce = self._path(name), os.urandom(_NONCE_BYTES)
        sealed = pack(_LABEL, nonce, self._cipher.encrypt(nonce, content, self._context(name)))
        with self._one_at_a_time:
            _replace(path, sealed)
            _sync_folder(self.folder)

    def erase(self, name: str) -> None:
        """Forget the record ``name``, if there is one. A host may have copied it before.

        Raises:
            OSError: it could not be removed.
        """
        path = self._path(name)
        with self._one_at_a_time:
            path.unlink(missing_ok=True)
            _sync_folder(self.folder)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError("vault record: a name of 1 to 64 of a-z, 0-9 and - expected")
        return self.folder / f"{name}.sealed"

    def _context(self, name: str) -> bytes:
        return pack(_CONTEXT_LABEL, self.role.value.encode("ascii"), self.plan, name.encode("ascii"))


def _read(path: Path) -> bytes | None:
    """The whole file, or more than a record may have; None if it is not there. The host may have put anything."""
    try:
        # Not blocking: a pipe in place of the file would hold the enclave for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _NOT_A_FILE:
            raise _no_file(path) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _no_file(path)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)


def _no_file(path: Path) -> StateError:
    return StateError(Reason.SEALED_STATE, f"vault record {path.stem}: a file expected")


def _replace(path: Path, content: bytes) -> None:
    """Put ``content`` in the place of ``path`` whole, or leave what was there."""
    partial = path.with_suffix(".partial")  # one name, so that kills leave one file at most, which the next write takes
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
