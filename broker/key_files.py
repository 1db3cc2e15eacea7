"""One sealed content key in one file, so that it can be overwritten where it lies. Trust zone: the member's own.

A key is sealed to the store's own key: whoever adds one needs no secret, and a copied folder opens nothing without the
file of the private key, which has the member's passphrase. Overwriting reaches the blocks that the file has now. A disk
that writes elsewhere (an SSD, a copying file system, a snapshot) and every backup may still hold the earlier ones.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trusted import hpke
from trusted.blob import KEY_BYTES, ContentKey
from trusted.errors import ChannelError, KeyReleaseError, Reason
from trusted.hpke import SealingKey
from trusted.wire import exactly

_MAX_BYTES = 1 << 12  # a sealed key takes 1168
_PURPOSE = b"key-store"


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The sealed keys in ``folder``, each under its id (32 bytes) in hex."""

    folder: Path

    def put(self, key_id: bytes, key: ContentKey, public: bytes) -> None:
        """Seal ``key`` to the store's ``public`` key; on the disk once this returns.

        Raises:
            OSError: it could not be written; an earlier file of that id stands.
        """
        sealed = hpke.seal(public, key.secret, _PURPOSE, key_id)
        path = self._path(key_id)
        draft = path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        self._sync()

    def open(self, key_id: bytes, private: SealingKey) -> ContentKey:
        """The content key of that id.

        Raises:
            KeyReleaseError: KEY_STORE: no such file, or it was sealed to another store or for another id, or altered.
        """
        try:
            with self._path(key_id).open("rb") as file:
                sealed = file.read(_MAX_BYTES)
            return ContentKey(exactly(private.open(sealed, _PURPOSE, key_id), KEY_BYTES, "content key"))
        except (OSError, ChannelError):
            raise KeyReleaseError(Reason.KEY_STORE, "store.keys: a key's file is missing or does not open") from None

    def destroy(self, key_id: bytes) -> None:
        """Overwrite the file with random bytes, sync, and remove it. One that is gone already is gone.

        Raises:
            OSError: it is still there; this is to be done again.
        """
        path = self._path(key_id)
        with suppress(FileNotFoundError):
            with path.open("r+b") as file:
                file.write(os.urandom(os.fstat(file.fileno()).st_size))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
        self._sync()

    def _path(self, key_id: bytes) -> Path:
        return self.folder / f"{exactly(key_id, 32, 'key id').hex()}.sealed"

    def _sync(self) -> None:
        """A rename or a removal is on the disk once its folder is."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
