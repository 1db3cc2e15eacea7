"""What one core does to a byte in each stage of the pipeline. Trust zone: the developer's machine.

Everything runs on 1 MiB that stays in the cache, as the pipeline does it: these are limits, not what a round reaches.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coordinator.enclave.fold import Advance, State, check, fold
from coordinator.enclave.jobs import Inline
from simulations.costs.held import Held
from simulations.costs.measured import measure
from simulations.costs.rates import Rate
from trusted.blob import ContentKey
from trusted.documents.terms import Aggregation, Rule
from trusted.floe import OVERHEAD_BYTES, Floe

PIECE_BYTES = 1 << 20
_PIECES = 16
_NONCE = bytes(12)


def stage_rates(seconds: float) -> list[Rate]:
    """Sealing, opening, folding and copying, each repeated for ``seconds``."""
    return [*_floe(seconds), *_aes_gcm(seconds), *_fold(seconds), *_memory(seconds)]


def _rate(what: str, size_bytes: int, run: Callable[[], object], seconds: float) -> Rate:
    return Rate(what, size_bytes, measure(what, run, seconds).seconds)


def _floe(seconds: float) -> Iterator[Rate]:
    """As trusted/blob does it: into buffers that are there already."""
    key, piece, size = ContentKey.generate().secret, os.urandom(PIECE_BYTES), PIECE_BYTES + OVERHEAD_BYTES
    floe, _ = Floe.start(key, b"context", segment_bytes=size)
    sealed, opened = memoryview(bytearray(size)), memoryview(bytearray(PIECE_BYTES))
    yield _rate("seal, FLOE", PIECE_BYTES, lambda: floe.seal_into(0, piece, sealed, last=False), seconds)
    yield _rate("open, FLOE", PIECE_BYTES, lambda: floe.open_into(0, sealed, opened, last=False), seconds)


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
    """The aggregator's own two passes, fed from memory: what they do to a byte, opening it included."""
    elements, signing_key = _PIECES * PIECE_BYTES // 4, Ed25519PrivateKey.generate()
    model, store = np.full(elements, 0.5, dtype=np.float32), Held()
    both = [store.hold_update(member, model, signing_key) for member in ("site-1", "site-2")]
    mean = Aggregation(Rule.WEIGHTED_MEAN, 1)
    size, advance = model.nbytes, Advance(None, 1, State(model), State(np.empty_like(model)))
    yield _rate("check, as the aggregator does", size, lambda: check(both[0], store, given_up=lambda: False), seconds)
    yield _rate(
        "fold, as the aggregator does",
        len(both) * size,
        lambda: fold(both, store, terms=mean, advance=advance, jobs=Inline()),
        seconds,
    )


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
