"""Records of an open session: AES-256-GCM, strictly sequenced, one key for each direction (docs/protocol.md §4.2).

Trust zone: every TEE. The host may replay, drop, reorder or alter a record; each of these ends the session.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trusted.errors import ChannelError, Reason
from trusted.wire import length_prefixed, pack, sha256, unpack

LABEL = "cloister/record/v1"
_MAX_SEQUENCE = 1 << 48  # far below what AES-GCM allows under one key; ends a session that runs away


class Direction(Enum):
    """Who speaks. Each direction has its own key, so a record cannot be reflected."""

    TO_AGGREGATOR = "w2a"
    TO_WORKER = "a2w"
    TO_SERVICE = "c2s"
    TO_CLIENT = "s2c"

    @property
    def opposite(self) -> Direction:
        """The other one."""
        return _OPPOSITE[self]


_OPPOSITE = {
    Direction.TO_AGGREGATOR: Direction.TO_WORKER,
    Direction.TO_WORKER: Direction.TO_AGGREGATOR,
    Direction.TO_SERVICE: Direction.TO_CLIENT,
    Direction.TO_CLIENT: Direction.TO_SERVICE,
}


@dataclass(frozen=True, slots=True)
class SessionSecrets:
    """What both sides contributed, 32 bytes each, and the four frames that carried it."""

    secret_w: bytes = field(repr=False)
    secret_a: bytes = field(repr=False)
    frames: tuple[bytes, ...] = field(repr=False)

    @property
    def handshake_digest(self) -> bytes:
        """SHA-256 over the frames, length-prefixed."""
        return sha256(length_prefixed(*self.frames))

    def key(self, direction: Direction) -> bytes:
        """The 32-byte record key of one direction."""
        info = f"cloister/records/v1/{direction.value}".encode("ascii")
        kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=self.handshake_digest, info=info)
        return kdf.derive(self.secret_w + self.secret_a)


class RecordLayer:
    """Seals what this side says and opens what the other side says, each number once and in order."""

    def __init__(self, secrets: SessionSecrets, speaks: Direction, session_id: bytes) -> None:
        self._speaks = speaks
        self._session_id = session_id
        self._sealer = AESGCM(secrets.key(speaks))
        self._opener = AESGCM(secrets.key(speaks.opposite))
        self._sent = 0
        self._received = 0

    def seal(self, plaintext: bytes) -> bytes:
        """The next record."""
        number = self._sent
        if number >= _MAX_SEQUENCE:
            raise ChannelError(Reason.RECORD, "record: sequence numbers are used up")
        self._sent += 1
        sealed = self._sealer.encrypt(_nonce(number), plaintext, self._associated(self._speaks, number))
        return pack(LABEL, number.to_bytes(8, "big"), sealed)

    def open(self, frame: bytes) -> bytes:
        """The plaintext of the next record, and of no other.

        Raises:
            WireError: not a record.
            ChannelError: replayed, reordered, skipped, altered, reflected, or of another session.
        """
        number_field, sealed = unpack(frame, LABEL, 2)
        number = self._received
        if number_field != number.to_bytes(8, "big"):
            raise ChannelError(Reason.RECORD, "record: not the next sequence number")
        try:
            plaintext = self._opener.decrypt(_nonce(number), sealed, self._associated(self._speaks.opposite, number))
        except (InvalidTag, ValueError):
            raise ChannelError(Reason.RECORD, "record: does not open") from None
        self._received += 1
        return plaintext

    def _associated(self, direction: Direction, number: int) -> bytes:
        fields = (direction.value.encode("ascii"), self._session_id, number.to_bytes(8, "big"))
        return pack("cloister/record-ad/v1", *fields)


def _nonce(number: int) -> bytes:
    return bytes(4) + number.to_bytes(8, "big")
