"""What evidence is bound to: a transcript, and a configuration (docs/protocol.md §3.2). Trust zone: every TEE.

One place computes both, for the prover that asks for a report and for the verifier that expects one.
"""

from __future__ import annotations

import hashlib

from trusted.wire import exactly, length_prefixed, pack, sha256

_REPORT_DATA_LABEL = b"cloister/report-data/v1"
_CONFIG_LABEL = "cloister/config/v1"


def report_data(transcript: bytes) -> bytes:
    """The 64 bytes that a report carries for ``transcript`` (T1, T2, T3 or R). Never cut and never padded: hashed."""
    return hashlib.sha512(length_prefixed(_REPORT_DATA_LABEL, transcript)).digest()


def host_data(role: str, charter_digest: bytes, plan_digest: bytes) -> bytes:
    """The 32 bytes with which a TEE of ``role`` is launched, so that its configuration cannot change under it.

    Raises:
        WireError: a digest that is not 32 bytes.
    """
    charter = exactly(charter_digest, 32, "charter digest")
    plan = exactly(plan_digest, 32, "plan digest")
    return sha256(pack(_CONFIG_LABEL, role.encode("ascii"), charter, plan))


def short_nonce(report_data: bytes) -> bytes:
    """32 bytes that stand for ``report_data`` (64) where a format holds no more: TPM quotes, GPU reports, tokens."""
    return sha256(pack("cloister/short-nonce/v1", exactly(report_data, 64, "report_data")))
