"""Sealing the model for a cohort, and for a later aggregator of the run. Trust zone: aggregator TEE."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from secrets import token_bytes

from coordinator.enclave.fold import State
from coordinator.enclave.ports import BLOB_NAME_BYTES, HostStore
from coordinator.enclave.record import SealedVector
from trusted.blob import BlobKind, ContentKey, seal_vector
from trusted.channel.session import Identity
from trusted.encoding import Encoding, Vector
from trusted.exchange import AGGREGATOR, Announcement, Exchanged
from trusted.wire import sha256


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals vectors once for everybody, and stores them."""

    exchanged: Exchanged
    store: HostStore
    identity: Identity

    def seal(self, kind: BlobKind, number: int, vector: Vector) -> tuple[SealedVector, bytes]:
        """What stands for ``vector``, float32, at the host, and the SHA-256 of its blob's prefix."""
        header = self.exchanged.header(kind, number, AGGREGATOR)
        key, name = ContentKey.generate(), token_bytes(BLOB_NAME_BYTES)
        parts = seal_vector(header, vector, key=key, signing_key=self.identity.signing_key)
        first = next(parts)
        prefix_sha256 = sha256(bytes(first[: header.prefix_bytes]))
        self.store.write(name, header.sealed_bytes, chain((first,), parts))
        return SealedVector(name, key, kind, number, self.identity.verify_key), prefix_sha256

    def seal_round(self, number: int, state: State) -> RoundModel:
        """The model of round ``number`` as its cohort gets it, where that is rounded as it is, and the moments."""
        sent, prefix_sha256 = self.seal(BlobKind.MODEL, number, state.model)
        exact = self.exchanged.terms.model is Encoding.FLOAT32
        kept = sent if exact else self.seal(BlobKind.STATE, number, state.model)[0]
        moments = tuple(self.seal(BlobKind.STATE, number, moment)[0] for moment in state.moments)
        return RoundModel(sent, kept, moments, prefix_sha256)

    def announce(self, sealed: SealedVector) -> Announcement:
        """How a task names it."""
        header_sha256 = sha256(sealed.header(self.exchanged).encode())
        return Announcement(sealed.blob, sealed.key.secret, header_sha256, sealed.signer)


@dataclass(frozen=True, slots=True)
class RoundModel:
    """One round's model at the host: ``sent`` to the cohort, ``kept`` for a later aggregator of the run.

    So are the ``moments`` of a server optimiser; nobody else opens them.
    """

    sent: SealedVector
    kept: SealedVector
    moments: tuple[SealedVector, ...]
    prefix_sha256: bytes

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """Their names, each once."""
        return tuple(dict.fromkeys(sealed.blob for sealed in (self.sent, self.kept, *self.moments)))
