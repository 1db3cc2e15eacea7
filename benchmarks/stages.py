"""What one core does to a byte in each stage of the pipeline. Trust zone: the developer's machine.

Everything runs on 1 MiB that stays in the cache, as the pipeline does it: these are limits, not what a round reaches.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator

import numpy as np
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.measured import measure
from benchmarks.rates import Rate
from coordinator.enclave.fold import Contribution, require_finite, weighted_mean
from trusted.blob import BlobHeader, BlobKind, ContentKey

PIECE_BYTES = 1 << 20
_PIECES = 16  # of a Cobblestone message: its start and end cost something, too
_NONCE = bytes(12)


def stage_rates(seconds: float) -> list[Rate]:
    """Sealing, opening, folding and copying, each repeated for ``seconds``."""
    return [*_cobblestone(seconds), *_aes_gcm(seconds), *_fold(seconds), *_memory(seconds)]


def _rate(what: str, size_bytes: int, run: Callable[[], object], seconds: float) -> Rate:
    return Rate(what, size_bytes, measure(what, run, seconds).seconds)


def _cobblestone(seconds: float) -> Iterator[Rate]:
    """As trusted/blob.py calls it: what ``update`` gives is new, and dropped when the next piece is there."""
    key, piece, size = Cobblestone256Encryptor.generate_key(), os.urandom(PIECE_BYTES), _PIECES * PIECE_BYTES

    def seal() -> Iterator[bytes]:
        sealer = Cobblestone256Encryptor(key, b"context")
        for _ in range(_PIECES):
            yield sealer.update(piece)
        yield sealer.finalize()

    sealed = list(seal())

    def open_again() -> None:
        opener = Cobblestone256Decryptor(key, b"context")
        for part in sealed:
            opener.update(part)
        opener.finalize()

    yield _rate("seal, Cobblestone-256", size, lambda: sum(map(len, seal())), seconds)
    yield _rate("open, Cobblestone-256", size, open_again, seconds)


def _aes_gcm(seconds: float) -> Iterator[Rate]:
    """Into buffers that are there already."""
    cipher, piece = AESGCM(AESGCM.generate_key(256)), os.urandom(PIECE_BYTES)
    sealed, opened = bytearray(PIECE_BYTES + 16), bytearray(PIECE_BYTES)
    yield _rate(
        "seal, AES-256-GCM 1 MiB", PIECE_BYTES, lambda: cipher.encrypt_into(_NONCE, piece, None, sealed), seconds
    )
    yield _rate(
        "open, AES-256-GCM 1 MiB", PIECE_BYTES, lambda: cipher.decrypt_into(_NONCE, sealed, None, opened), seconds
    )


def _fold(seconds: float) -> Iterator[Rate]:
    """The aggregator's own two passes, fed from memory: what they do to a byte beside opening it."""
    elements = _PIECES * PIECE_BYTES // 4
    pieces = [np.full(PIECE_BYTES // 4, 0.5, dtype="<f4").tobytes() for _ in range(_PIECES)]
    both = [_contribution(member, elements) for member in ("site-1", "site-2")]
    size = len(pieces) * PIECE_BYTES
    yield _rate("check, as the aggregator does", size, lambda: require_finite(iter(pieces)), seconds)
    yield _rate(
        "fold, as the aggregator does",
        len(both) * size,
        lambda: weighted_mean(both, lambda _: iter(pieces), elements),
        seconds,
    )


def _contribution(member: str, elements: int) -> Contribution:
    header = BlobHeader(BlobKind.UPDATE, bytes(32), 0, member, bytes(32), elements)
    return Contribution(member, 1, bytes(32), header, ContentKey.generate(), bytes(32))


def _memory(seconds: float) -> Iterator[Rate]:
    source = np.full(PIECE_BYTES // 4, 0.5, dtype=np.float32)
    total = np.zeros_like(source)
    yield _rate("fold, float32 add alone", PIECE_BYTES, lambda: np.add(total, source, out=total), seconds)
    yield _rate("copy, into a warm buffer", PIECE_BYTES, lambda: np.copyto(total, source), seconds)
    large = bytes(_PIECES * PIECE_BYTES)
    yield _rate("copy, into fresh memory", len(large), lambda: _into_fresh_pages(large), seconds)


def _into_fresh_pages(source: bytes) -> None:
    with mmap.mmap(-1, len(source)) as pages:
        pages[:] = source
