"""Sealing to one receiver: RFC 9180 with the post-quantum hybrid KEM. Trust zone: every TEE, and a recipient's console.

Medical data and models must outlive today's ciphers, so every key exchange is ML-KEM-768 with X25519: both must fall.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_bytes

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from trusted.errors import ChannelError, Reason
from trusted.wire import exactly, pack

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_MLKEM_PUBLIC_BYTES = 1184
_MLKEM_SEED_BYTES = 64
PUBLIC_BYTES = _MLKEM_PUBLIC_BYTES + 32
PRIVATE_BYTES = _MLKEM_SEED_BYTES + 32


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A private key that opens what was sealed to ``public`` (1216 bytes: ML-KEM-768, then X25519)."""

    _mlkem: MLKEM768PrivateKey = field(repr=False)
    _x25519: X25519PrivateKey = field(repr=False)
    public: bytes

    @classmethod
    def generate(cls) -> SealingKey:
        """A fresh key, from the kernel's generator: OpenSSL's own would be the same in two clones of a machine."""
        return cls.from_bytes(token_bytes(PRIVATE_BYTES))

    @classmethod
    def from_bytes(cls, secret: bytes) -> SealingKey:
        """The key of 96 bytes that :meth:`to_bytes` gave: the ML-KEM seed, then the X25519 scalar."""
        exactly(secret, PRIVATE_BYTES, "sealing key")
        return cls._of(
            MLKEM768PrivateKey.from_seed_bytes(secret[:_MLKEM_SEED_BYTES]),
            X25519PrivateKey.from_private_bytes(secret[_MLKEM_SEED_BYTES:]),
        )

    @classmethod
    def _of(cls, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> SealingKey:
        public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        return cls(mlkem, x25519, public)

    def to_bytes(self) -> bytes:
        """96 secret bytes, for a member's key file alone."""
        return self._mlkem.private_bytes_raw() + self._x25519.private_bytes_raw()

    def open(self, sealed: bytes, *purpose: bytes) -> bytes:
        """What was sealed to this key for exactly this ``purpose``.

        Raises:
            ChannelError: sealed to another key, for another purpose, or altered.
        """
        private = MLKEM768X25519PrivateKey(self._mlkem, self._x25519)
        try:
            return _SUITE.decrypt(sealed, private, info=_info(*purpose))
        except (InvalidTag, ValueError):
            raise ChannelError(Reason.OPEN_FAILED, "sealed message: does not open under this key and purpose") from None


def seal(public: bytes, plaintext: bytes, *purpose: bytes) -> bytes:
    """``plaintext`` sealed to ``public`` (1216 bytes), to be opened only for the same ``purpose`` fields.

    Raises:
        WireError, ChannelError: ``public`` is no key; whoever sent it may be lying.
    """
    exactly(public, PUBLIC_BYTES, "sealing key")
    try:
        receiver = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:]),
        )
        return _SUITE.encrypt(plaintext, receiver, info=_info(*purpose))
    except ValueError:
        raise ChannelError(Reason.OPEN_FAILED, "the other side's sealing key is not a key") from None


def _info(*purpose: bytes) -> bytes:
    return pack("cloister/hpke/v1", *purpose)
