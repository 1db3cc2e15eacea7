"""Where each update of a round goes: drawn from the run's seed, as its cohort is. Trust zone: aggregator TEE."""

from __future__ import annotations

from typing import Any

from coordinator.enclave.course import Course
from coordinator.enclave.ports import BLOB_NAME_BYTES
from coordinator.enclave.rounds import Round
from trusted.blob import BlobKind
from trusted.ledger.sampling import lot


def upload_name(seed: bytes, number: int, member: str, verify_key: bytes) -> bytes:
    """The blob (16 bytes) for the update of this start of a member's worker: the same after a restart of this side."""
    return lot(seed, "cloister/upload-name/v1", number, member.encode(), verify_key)[:BLOB_NAME_BYTES]


def expect_upload(course: Course, current: Round, member: str, kind: BlobKind) -> dict[str, Any] | None:
    """Let the host take what ``member`` sends in ``current``, and say where; None: ``member`` is not here."""
    peer = course.admissions.peer(member)
    if peer is None or member not in course.witnesses.promised:
        return None
    size = course.exchanged.header(kind, current.number, member).sealed_bytes
    blob = upload_name(course.seed, current.number, member, peer.verify_key)
    earlier = current.uploads.get(member)
    if earlier is not None and earlier != blob:  # of an earlier start of this worker, whose key is gone
        course.discard([earlier])
    current.uploads[member] = blob
    course.store.expect(blob, size)
    return {"blob": blob.hex(), "bytes": size}
