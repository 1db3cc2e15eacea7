"""What a confidential VM is launched with: the 32 bytes that bind role, charter and plan. Trust zone: operator."""

from __future__ import annotations

from pathlib import Path

from console.documents import present
from console.files import read_bounded
from trusted.attestation.binding import host_data
from trusted.documents.charter import verify_charter
from trusted.documents.dsse import MAX_ENVELOPE_BYTES
from trusted.documents.plan import verify_plan
from trusted.evidence.boot import Role

_MRCONFIGID_BYTES = 48
_PERSONALIZATION_BYTES = 64


def launch_values(role: Role, charter: Path, plan: Path) -> dict[str, str]:
    """Hexadecimal, by the platform's own name for it.

    Raises:
        OSError, ProtocolError: charter or plan cannot be read, or do not hold now.
    """
    now = present()
    verified_charter = verify_charter(read_bounded(charter, MAX_ENVELOPE_BYTES), now)
    verified_plan = verify_plan(read_bounded(plan, MAX_ENVELOPE_BYTES), verified_charter, now)
    value = host_data(role.value, verified_charter.digest, verified_plan.digest)
    return {
        "host_data": value.hex(),
        "mrconfigid": value.ljust(_MRCONFIGID_BYTES, b"\0").hex(),
        "personalization": value.ljust(_PERSONALIZATION_BYTES, b"\0").hex(),
    }
