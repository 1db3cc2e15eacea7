"""A PE/COFF file as firmware loads and measures it. Trust zone: operator.

Sources: Microsoft, "PE Format" and "Windows Authenticode Portable Executable Signature Format".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from console.output import UserError

_HINT = "Name a unified kernel image, such as `ukify` or mkosi makes."
_PE32, _PE32_PLUS = 0x10B, 0x20B
_DIRECTORIES = {_PE32: 96, _PE32_PLUS: 112}  # where the data directories begin in the optional header
_SIZE_OF_HEADERS, _CHECKSUM = 60, 64
_CERTIFICATES = 4  # the directory of signatures
_SECTION = struct.Struct("<8sIIII16x")
_MAX_SECTIONS = 96


@dataclass(frozen=True, slots=True)
class Section:
    """One section: where it lies in the file, and how long it is in memory."""

    name: str
    virtual_size: int
    raw_size: int
    raw_offset: int


@dataclass(frozen=True, slots=True)
class PortableExecutable:
    """The parts of a PE file that its measurement depends on. Offsets are into ``image``."""

    image: bytes
    sections: tuple[Section, ...]
    checksum_offset: int
    certificates_offset: int
    size_of_headers: int
    certificates_size: int

    def content(self, name: str) -> bytes | None:
        """The section ``name`` as it is in memory; None if there is none."""
        for section in self.sections:
            if section.name == name:
                stored = self.image[section.raw_offset : section.raw_offset + section.raw_size]
                return stored[: section.virtual_size].ljust(section.virtual_size, b"\0")
        return None

    def measured(self) -> bytes:
        """What the Authenticode digest is over: all but the checksum and the signatures."""
        checksum, directory = self.checksum_offset, self.certificates_offset
        parts = [
            self.image[:checksum],
            self.image[checksum + 4 : directory],
            self.image[directory + 8 : self.size_of_headers],
        ]
        end = self.size_of_headers
        for section in sorted(self.sections, key=lambda section: section.raw_offset):
            if section.raw_size:
                parts.append(self.image[section.raw_offset : section.raw_offset + section.raw_size])
                end += section.raw_size
        parts.append(self.image[end : len(self.image) - self.certificates_size])
        return b"".join(parts)


def read_executable(image: bytes) -> PortableExecutable:
    """The PE file in ``image``.

    Raises:
        UserError: it is none, or is cut short.
    """
    try:
        return _read(image)
    except struct.error:
        raise UserError("this PE file is cut short", _HINT) from None


def _read(image: bytes) -> PortableExecutable:
    (start,) = struct.unpack_from("<I", image, 0x3C) if image[:2] == b"MZ" else (len(image),)
    if image[start : start + 4] != b"PE\0\0":
        raise UserError("this file is no PE executable", _HINT)
    count, optional_size = (struct.unpack_from("<H", image, start + offset)[0] for offset in (6, 20))
    optional = start + 24
    (magic,) = struct.unpack_from("<H", image, optional)
    if magic not in _DIRECTORIES or count > _MAX_SECTIONS:
        raise UserError("this PE file is of a kind that no firmware starts", _HINT)
    directories = optional + _DIRECTORIES[magic]
    (entries,) = struct.unpack_from("<I", image, directories - 4)
    directory = directories + 8 * _CERTIFICATES
    if entries <= _CERTIFICATES:
        raise UserError("this PE file has no place for signatures", _HINT)
    table = optional + optional_size
    sections = tuple(_section(image, table + index * _SECTION.size) for index in range(count))
    (certificates_size,) = struct.unpack_from("<I", image, directory + 4)
    (size_of_headers,) = struct.unpack_from("<I", image, optional + _SIZE_OF_HEADERS)
    if size_of_headers > len(image) or certificates_size > len(image) or size_of_headers < table:
        raise UserError("this PE file is cut short", _HINT)
    return PortableExecutable(image, sections, optional + _CHECKSUM, directory, size_of_headers, certificates_size)


def _section(image: bytes, offset: int) -> Section:
    name, virtual_size, _, raw_size, raw_offset = _SECTION.unpack_from(image, offset)
    if raw_size and raw_offset + raw_size > len(image):
        raise UserError("this PE file is cut short", _HINT)
    return Section(name.rstrip(b"\0").decode("ascii", "replace"), virtual_size, raw_size, raw_offset)
