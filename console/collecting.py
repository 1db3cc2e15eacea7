"""This machine's own evidence, to look at. Trust zone: the machine that attests.

Nobody admits what is made here: it belongs to no session. It shows whether the platform attests at all, and as what.
"""

from __future__ import annotations

from pathlib import Path

from console.enclaves import TPM_CHAIN, required_chip
from console.output import UserError
from console.tee_options import Tee
from softtee import measured_boot, swtpm
from softtee.chip import Chip
from softtee.chip_tpm import ChipTpm
from trusted.attestation.evidence import Evidence
from trusted.evidence.detection import Provisions, detect, read_chain
from trusted.evidence.tpm import PcrChoice, TpmEvidence
from trusted.evidence.tpm import detect as detect_tpm

_SAMPLE_MEASUREMENT = bytes(48)
_SAMPLE_HOST_DATA = bytes(32)


def collect(tee: Tee, chip: Path | None, report_data: bytes) -> Evidence:
    """The TEE's evidence over ``report_data``, 64 bytes. A software chip measures nothing here: measurement and host
    data are zero, which no charter lists.

    Raises:
        TeeError: there is no such device, or it gives no report.
        UserError, OSError: there is no such chip.
    """
    if tee is Tee.HARDWARE:
        return detect().evidence(report_data)
    try:
        maker = Chip.load(required_chip(chip))
    except ValueError:
        hint = "Make one: cloister tee chip --root ./tee-root --out ./chip-1"
        raise UserError(f"{chip}: not a software chip", hint) from None
    return maker.attest(report_data=report_data, measurement=_SAMPLE_MEASUREMENT, host_data=_SAMPLE_HOST_DATA)


def collect_tpm(tee: Tee, chip: Path | None, report_data: bytes) -> Evidence:
    """The quote of the TPM beside the TEE, over ``report_data``, 64 bytes. Nothing was measured into a software TPM
    here: its PCR is zero, which no charter lists.

    Raises:
        TeeError: there is no TPM, or it gives no quote.
        UserError: there is no such chip.
    """
    if tee is Tee.HARDWARE:
        provisions = Provisions()
        return detect_tpm(provisions.pcrs, certificates=read_chain(provisions.endorsements / TPM_CHAIN)).evidence(
            report_data
        )
    made = ChipTpm.load(required_chip(chip))
    choice = PcrChoice(measured_boot.BANK, (measured_boot.PCR,))
    with swtpm.running(made.state) as tpm:
        return TpmEvidence(tpm.client, choice, certificates=made.certificates).evidence(report_data)
