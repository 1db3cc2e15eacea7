"""What an enclave is started with. Trust zone: every TEE.

Whoever starts an enclave is the host, and the host may lie about all of it: charter and plan are verified by their
signatures and against the digests in the enclave's own evidence, and options are hints (addresses, paths) that may
decide nothing about protection.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any

from trusted.errors import Reason, WireError
from trusted.evidence.provider import EvidenceProvider
from trusted.wire import Json, decode_json, encode_json, pack, unpack

_LABEL = "cloister/boot/v1"
_MAX_BYTES = 16 << 20  # two envelopes, options, room


@unique
class Role(StrEnum):
    """Which of the enclaves this is: bound by ``host_data`` and by every transcript (docs/protocol.md §3.2, §4)."""

    AGGREGATOR = "aggregator"
    WORKER = "worker"
    RECIPIENT = "recipient"


@dataclass(frozen=True, slots=True)
class Boot:
    """One start of an enclave.

    Attributes:
        role: what it was started as; its evidence says the same.
        charter: the DSSE envelope of the charter, unverified.
        plan: the DSSE envelope of the plan, unverified.
        options: start options from the host, unverified and untrusted.
        provider: where this enclave asks for evidence. It decides nothing: peers verify what it gives.
    """

    role: Role
    charter: bytes
    plan: bytes
    options: dict[str, Any]
    provider: EvidenceProvider


def encode_boot(role: Role, charter: bytes, plan: bytes, options: dict[str, Json]) -> bytes:
    """The record that the launcher hands to the enclave. It holds no secret: the host wrote it."""
    return pack(_LABEL, role.value.encode("ascii"), charter, plan, encode_json(options))


def decode_boot(record: bytes, provider: EvidenceProvider) -> Boot:
    """The start that ``record`` describes, with evidence from ``provider``.

    Raises:
        WireError: not a boot record, an unknown role, or options that are no JSON object.
    """
    role, charter, plan, options = unpack(record, _LABEL, 4, max_bytes=_MAX_BYTES)
    names = {known.value.encode("ascii"): known for known in Role}
    if role not in names:
        raise WireError(Reason.MALFORMED, "boot.role: aggregator, worker or recipient expected")
    decoded = decode_json(options)
    if not isinstance(decoded, dict):
        raise WireError(Reason.WRONG_TYPE, "boot.options: an object expected")
    return Boot(names[role], charter, plan, decoded, provider)
