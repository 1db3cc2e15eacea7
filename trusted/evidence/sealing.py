"""The sealing key of a TEE, bound to this machine and to what was measured; or its absence. Trust zone: every TEE.

A key that comes back after a restart lets an enclave remember. Sources that have one are :class:`SealingSource` too;
all others have none, and that is an error for the caller to judge, never a key from somewhere else.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trusted.errors import Reason, TeeError
from trusted.evidence.provider import EvidenceProvider
from trusted.wire import pack

KEY_BYTES = 32
_LABEL = "cloister/sealing-key/v1"


@runtime_checkable
class SealingSource(Protocol):
    """A source of evidence whose platform also derives a key for what it measured."""

    def sealing_key(self, label: bytes) -> bytes:
        """The key for ``label``, 32 secret bytes: the same at each start of the same code on the same machine.

        Raises:
            TeeError: TEE_NO_SEALING, the platform has none; TEE_DEVICE_MISSING, TEE_REPORT, it gave none now.
        """
        ...


def sealing_key(provider: EvidenceProvider, label: bytes) -> bytes:
    """The sealing key of the platform behind ``provider`` for ``label``, 32 secret bytes.

    Raises:
        TeeError: TEE_NO_SEALING, the platform has none; what :meth:`SealingSource.sealing_key` raises otherwise.
    """
    if not isinstance(provider, SealingSource):
        raise no_sealing_key(type(provider).__name__)
    return provider.sealing_key(label)


def derived_key(root: bytes, label: bytes) -> bytes:
    """The key for ``label`` alone, 32 bytes, from a platform's secret ``root``: two uses never share one."""
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=pack(_LABEL, label)).derive(root)


def no_sealing_key(source: str) -> TeeError:
    """What a source without a sealing key says."""
    return TeeError(Reason.TEE_NO_SEALING, f"{source}: this platform has no sealing key that outlives a restart")
