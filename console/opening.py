"""Opening a released model. Trust zone: the recipient's machine; everything that the host serves may be a lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from console.documents import present
from console.files import PRIVATE, write_file
from console.ordering import Desk
from console.output import UserError
from console.running import protection_in_words
from trusted.apps.arrays import split_vector
from trusted.attestation.result import AttestationResult
from trusted.blob import open_blob
from trusted.card import MAX_CARD_BYTES, VerifiedCard, card_name, verify_card
from trusted.channel.federation import Federation
from trusted.documents.layout import Layout, initial_digest
from trusted.errors import BlobError, Reason, RunError
from trusted.hpke import SealingKey
from trusted.release import MAX_RELEASE_BYTES, Release, VerifiedRelease, release_name, verify_release


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """The released model, and the proof of where it comes from."""

    vector: NDArray[np.float32] = field(repr=False)
    release: Release
    aggregator: AttestationResult

    def provenance(self) -> dict[str, str]:
        """What is written beside the numbers, so that they are never without it."""
        return {
            "plan": self.release.plan.hex(),
            "charter": self.release.charter.hex(),
            "rounds": str(self.release.rounds),
            "model_sha256": self.release.model_sha256.hex(),
            "aggregator_measurement": self.aggregator.measurement.hex(),
            "assurance": self.aggregator.assurance.value,
            "protection": protection_in_words(self.aggregator.assurance.value),
        }


def open_release(desk: Desk, member: str, key: SealingKey) -> OpenedModel:
    """Fetch, verify and open the model that the plan's run released to ``member``.

    Raises:
        UserError: nothing has been released yet. ProtocolError: what the host serves does not hold.
    """
    federation = Federation(desk.charter, desk.plan)
    verified = fetch_release(desk)
    release = verified.release
    content_key = verified.open_key(member, key)
    stored = desk.client.get_blob(desk.plan.digest, release.blob)
    layout = desk.plan.document.layout
    header = release.header(federation)
    opened = open_blob(stored, expected=header, key=content_key, verify_key=release.verify_key)
    data = b"".join(opened)
    if initial_digest(layout, data) != release.model_sha256:
        raise BlobError(Reason.DOCUMENT_DIGEST, "release.model_sha256: the opened model has another digest")
    return OpenedModel(np.frombuffer(data, dtype="<f4"), release, verified.aggregator)


def fetch_release(desk: Desk) -> VerifiedRelease:
    """The release document of the plan's run, and with it the aggregator that made it, both verified.

    Raises:
        UserError: nothing has been released yet. ProtocolError: what the host serves does not hold.
    """
    return verify_release(stored_release(desk), Federation(desk.charter, desk.plan), present())


def stored_release(desk: Desk) -> bytes:
    """The bytes that the host serves as the release of the plan's run; nothing of them is verified.

    Raises:
        UserError: nothing has been released yet. ProtocolError: more bytes than any release has.
    """
    return _fetch(desk, release_name(desk.plan.digest), MAX_RELEASE_BYTES)


def fetch_card(desk: Desk) -> tuple[VerifiedCard, VerifiedRelease]:
    """The model card of the plan's run, and the release that names it, both verified.

    Raises:
        UserError: the plan asks for no card, or nothing has been released yet. ProtocolError: the host lies.
    """
    if desk.plan.document.evaluation is None:
        hint = "A plan asks for one with `cloister plan new --evaluate-label column:at_least`."
        raise UserError("this plan does not have its model judged, so there is no model card", hint)
    verified = fetch_release(desk)
    stored = _fetch(desk, card_name(desk.plan.digest), MAX_CARD_BYTES + 4096)
    return verify_card(stored, verified.release), verified


def _fetch(desk: Desk, name: bytes, max_bytes: int) -> bytes:
    stored = bytearray()
    try:
        for piece in desk.client.get_blob(desk.plan.digest, name):
            stored += piece
            if len(stored) > max_bytes:
                raise BlobError(Reason.BLOB_TOO_LONG, "release: longer than any release or model card")
    except RunError as error:
        if error.reason is Reason.BLOB_UNKNOWN:
            hint = "See how the run stands: cloister run status. Only a finished run releases a model."
            raise UserError("this run has released no model yet", hint) from None
        raise
    return bytes(stored)


def write_safetensors(
    path: Path, layout: Layout, vector: NDArray[np.float32], metadata: dict[str, str], *, force: bool
) -> None:
    """Write the model's tensors by name, with where they come from in the file's metadata; mode 0600."""
    arrays = {name: np.asarray(array, order="C") for name, array in split_vector(layout, vector).items()}
    write_file(path, save(arrays, metadata=metadata), mode=PRIVATE, force=force)
