"""Opening the released model in memory, and nowhere else. Trust zone: recipient TEE; whoever stored it may lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trusted.blob import ContentKey, open_vector
from trusted.channel.federation import Federation
from trusted.documents.layout import initial_digest
from trusted.errors import BlobError, Reason
from trusted.release import VerifiedRelease
from worker.trainer import Vector

_PIECE_BYTES = 4 << 20


def open_model(sealed: Path, released: VerifiedRelease, federation: Federation, key: ContentKey) -> Vector:
    """The model float32[elements] in the file ``sealed``: exactly the one that the verified release announces.

    Raises:
        BlobError: another blob, another key, or another model than the release names. OSError: it cannot be read.
    """
    release, layout = released.release, federation.plan.document.layout
    vector = np.empty(layout.elements, np.float32)
    header = release.header(federation)
    open_vector(_pieces(sealed), vector, expected=header, key=key, verify_key=release.verify_key)
    if initial_digest(layout, vector.data.cast("B")) != release.model_sha256:
        vector[:] = 0
        raise BlobError(Reason.DOCUMENT_DIGEST, "release.model_sha256: the opened model has another digest")
    return vector


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
