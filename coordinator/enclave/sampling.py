"""Where each update of a round goes: drawn from the run's seed, as its cohort is. Trust zone: aggregator TEE."""

from __future__ import annotations

from coordinator.enclave.ports import BLOB_NAME_BYTES
from trusted.ledger.sampling import lot


def upload_name(seed: bytes, number: int, member: str, verify_key: bytes) -> bytes:
    """The blob (16 bytes) for the update of this start of a member's worker: the same after a restart of this side."""
    return lot(seed, "cloister/upload-name/v1", number, member.encode(), verify_key)[:BLOB_NAME_BYTES]
