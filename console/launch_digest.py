"""The launch digest of a SEV-SNP guest, through ``sev-snp-measure`` (extra ``measure``). Trust zone: operator.

It depends on firmware, kernel, initrd and command line, and as much on the number and type of virtual processors and on
the hypervisor: each combination is another value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path

from console.output import UserError
from console.reference_values import ReferenceValues

_GUEST_FEATURES = 1  # SEV-SNP active: what QEMU and the clouds set
_MAX_VCPUS = 1024
_VERIFIED = (
    "sev-snp-measure gives a known digest of the virtee project; no boot of ours was compared. The firmware must have "
    "a section for kernel hashes (OVMF AmdSev) where a kernel is named"
)


@unique
class Hypervisor(StrEnum):
    """Who starts the guest: each prepares its processors in a way of its own."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


@dataclass(frozen=True, slots=True)
class SnpGuest:
    """All that a launch digest depends on."""

    firmware: Path
    vcpus: int
    vcpu_type: str
    hypervisor: Hypervisor = Hypervisor.QEMU
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""


def measure_snp(guest: SnpGuest) -> ReferenceValues:
    """The launch digest of ``guest``, 48 bytes.

    Raises:
        UserError: the extra is not installed, or the description does not fit together.
        OSError: a file cannot be read.
    """
    try:
        from sevsnpmeasure.guest import snp_calc_launch_digest
        from sevsnpmeasure.vcpu_types import CPU_SIGS
        from sevsnpmeasure.vmm_types import VMMType
    except ImportError:
        raise UserError(
            "sev-snp-measure is not installed", "Install the extra: pip install 'cloister[measure]'"
        ) from None
    if guest.vcpu_type not in CPU_SIGS:
        raise UserError("--vcpu-type is none that is known", f"One of: {', '.join(CPU_SIGS)}.")
    if not 1 <= guest.vcpus <= _MAX_VCPUS:
        raise UserError("--vcpus is no number of processors", f"Give 1 to {_MAX_VCPUS}.")
    if guest.kernel is None and (guest.initrd is not None or guest.append):
        raise UserError("--initrd and --append need --kernel", "Name the kernel that the firmware is to check.")
    for path in (guest.firmware, guest.kernel, guest.initrd):
        if path is not None:
            path.open("rb").close()
    machines = {Hypervisor.QEMU: VMMType.QEMU, Hypervisor.EC2: VMMType.ec2, Hypervisor.GCE: VMMType.gce}
    try:
        digest: bytes = snp_calc_launch_digest(
            guest.vcpus,
            CPU_SIGS[guest.vcpu_type],
            str(guest.firmware),
            str(guest.kernel or ""),
            str(guest.initrd or ""),
            guest.append,
            _GUEST_FEATURES,
            "",
            machines[guest.hypervisor],
        )
    except (ValueError, RuntimeError, AssertionError, KeyError, TypeError):
        hint = "Use OVMF built for AmdSev (Debian: ovmf-amdsev), whose metadata names its SEV-SNP sections."
        raise UserError("the firmware does not fit a SEV-SNP guest started so", hint) from None
    parts = (
        ("vcpus", str(guest.vcpus)),
        ("vcpu_type", guest.vcpu_type),
        ("hypervisor", guest.hypervisor.value),
    )
    return ReferenceValues("snp", digest, parts, _VERIFIED)
