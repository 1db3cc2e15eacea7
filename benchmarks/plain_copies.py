"""The same pipeline with nothing sealed: what sealing costs is the difference. Trust zone: the developer's machine.

Nothing outside ``benchmarks`` knows of this. Headers, signatures, sizes and segments stay; AES-256-GCM becomes a copy.
"""

from __future__ import annotations

import numpy as np

from trusted.floe import OVERHEAD_BYTES, Buffer, Floe

_HEAD_BYTES = 16


def replace_sealing() -> None:
    """From now on, in this process, segments are copied. Both sides of a blob must do so."""
    Floe.seal_into = _copy_in  # type: ignore[method-assign]
    Floe.open_into = _copy_out  # type: ignore[method-assign]


def _copy_in(
    self: Floe, position: int, plaintext: Buffer, out: memoryview, *, last: bool, iv: bytes | None = None
) -> int:
    size = memoryview(plaintext).nbytes
    np.copyto(np.frombuffer(out[_HEAD_BYTES : _HEAD_BYTES + size], np.uint8), np.frombuffer(plaintext, np.uint8))
    return size + OVERHEAD_BYTES


def _copy_out(self: Floe, position: int, segment: Buffer, out: memoryview, *, last: bool) -> int:
    size = memoryview(segment).nbytes - OVERHEAD_BYTES
    source = np.frombuffer(memoryview(segment)[_HEAD_BYTES : _HEAD_BYTES + size], np.uint8)
    np.copyto(np.frombuffer(out[:size], np.uint8), source)
    return size
