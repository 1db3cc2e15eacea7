"""PCR 4, 9 and 11 of a unified kernel image, computed without booting it. Trust zone: operator.

PCR 4: firmware that follows the TCG's profile measures its own two steps, then each program that it starts. PCR 9: the
kernel's EFI stub measures its command line and initrd. PCR 11: systemd-stub measures the sections. PCR 0 to 3 and 7
depend on the firmware, and are not computed here. Sources: TCG PC Client Platform Firmware Profile, 3.3.4;
systemd-stub(7); Linux ``drivers/firmware/efi/libstub``; tee.md section 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from console.output import UserError
from console.portable_executable import PortableExecutable, read_executable
from console.reference_values import ReferenceValues
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.wire import Json

# In the order in which systemd-stub measures those that are there.
_MEASURED_SECTIONS = (
    ".linux",
    ".osrel",
    ".cmdline",
    ".initrd",
    ".ucode",
    ".splash",
    ".dtb",
    ".uname",
    ".sbat",
    ".pcrpkey",
)
_CALLING = b"Calling EFI Application from Boot Option"
_SEPARATOR = bytes(4)
_BLANKS = " \t\n\r\0"
_VERIFIED = (
    "the rule was compared with one boot of OVMF and systemd-stub 252 (PCR 4, 9 and 11 equal), this code was not; "
    "clouds with other firmware, and stubs that add credentials or extensions, measure more"
)


def measure_uki(image: bytes, *, bank: Bank = Bank.SHA256, phases: Sequence[str] = ()) -> ReferenceValues:
    """The registers of ``image`` in ``bank``, after systemd has measured ``phases`` (such as ``enter-initrd``).

    The measurement is that of a quote over PCR 4, 9 and 11 by a key whose scheme hashes with SHA-256.

    Raises:
        UserError: it is no unified kernel image.
    """
    executable = read_executable(image)
    kernel = executable.content(".linux")
    if kernel is None:
        raise UserError("this PE file is no unified kernel image: no section .linux", "Make one with `ukify build`.")
    programs = [executable.measured(), read_executable(kernel).measured()]
    registers = {
        4: _extended((_CALLING, _SEPARATOR, *programs), bank),
        9: _extended(_kernel_events(executable), bank),
        11: _extended((*_section_events(executable), *(phase.encode("utf-8") for phase in phases)), bank),
    }
    quoted = hashlib.sha256(b"".join(registers.values())).digest()
    values: dict[str, Json] = {str(index): [value.hex()] for index, value in registers.items()}
    knobs: dict[str, Json] = {"pcrs": {"bank": bank.label, "selection": list(registers), "values": values}}
    parts = tuple((f"PCR{index}", value.hex()) for index, value in registers.items())
    return ReferenceValues("tpm", quoted, parts, _VERIFIED, knobs)


def _extended(events: Iterable[bytes], bank: Bank) -> bytes:
    """A register that started as zeros, after each of ``events``."""
    value = bytes(bank.size_bytes)
    for event in events:
        value = hashlib.new(bank.label, value + hashlib.new(bank.label, event).digest()).digest()
    return value


def _kernel_events(executable: PortableExecutable) -> Iterable[bytes]:
    """The command line as UTF-16 with its end, without the blanks at its end, which systemd-stub takes off."""
    cmdline = executable.content(".cmdline")
    if cmdline is not None:
        yield (cmdline.decode("utf-8", "replace").rstrip(_BLANKS) + "\0").encode("utf-16-le")
    initrd = executable.content(".initrd")
    if initrd is not None:
        yield initrd


def _section_events(executable: PortableExecutable) -> Iterable[bytes]:
    """Name, with its end, and content of each section."""
    for name in _MEASURED_SECTIONS:
        content = executable.content(name)
        if content is not None:
            yield name.encode("ascii") + b"\0"
            yield content
