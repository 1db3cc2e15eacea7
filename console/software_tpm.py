"""What a charter asks of the software TEE's TPMs. Trust zone: the member's own machine.

The launcher measures what it starts into PCR 11 (``softtee.measured_boot``), so the quote that a charter must expect
follows from the very measurements that it names for the chips. NO HARDWARE PROTECTION.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from console.output import UserError
from softtee import measured_boot
from softtee.chip_tpm import ChipTpm
from trusted.attestation.device_policy import DeviceRule
from trusted.attestation.policies.tpm import strict_tpm_policy
from trusted.attestation.roots import Assurance

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


def read_tpm_key(given: str) -> bytes:
    """SHA-256 of one TPM's attestation key: ``given`` is that, or the folder of a chip with a TPM.

    Raises:
        UserError: it is neither. TeeError: TEE_DEVICE_MISSING, the chip has no TPM.
    """
    if _DIGEST.fullmatch(given):
        return bytes.fromhex(given)
    if not Path(given).is_dir():
        hint = "Give the key that `cloister tee chip --tpm` printed, or the chip's folder."
        raise UserError("a TPM's key is neither 32 bytes of hexadecimal nor a chip's folder", hint)
    return ChipTpm.load(Path(given)).key_sha256


def software_tpm_rule(measurements: Sequence[bytes], keys: Sequence[bytes]) -> DeviceRule:
    """Exactly one TPM, with one of ``keys`` (32 bytes each), into which one of ``measurements`` (48) was measured."""
    policy = strict_tpm_policy(
        [measured_boot.quoted_digest(measurement) for measurement in measurements],
        selection=(measured_boot.PCR,),
        bank=measured_boot.BANK,
        keys=keys,
        assurance=Assurance.NONE,
    )
    return DeviceRule(1, 1, policy)
