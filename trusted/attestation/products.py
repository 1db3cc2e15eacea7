"""The AMD products that can attest, and how their reports differ. Trust zone: every TEE.

Source: AMD 56860 (SEV-SNP firmware ABI), tables TCB_VERSION and ATTESTATION_REPORT; AMD 57230 (VCEK certificates).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Product:
    """One processor generation.

    Attributes:
        name: as it stands in the certificates' names.
        tcb_offsets: (component, byte) of the eight-byte TCB_VERSION; the other bytes are reserved.
        hardware_id_bytes: how many bytes of CHIP_ID, and of the certificate's hwID, identify the chip.
    """

    name: str
    tcb_offsets: tuple[tuple[str, int], ...]
    hardware_id_bytes: int

    @property
    def tcb_names(self) -> tuple[str, ...]:
        """The names of the TCB components."""
        return tuple(name for name, _ in self.tcb_offsets)


_FIRST_LAYOUT = (("bl", 0), ("tee", 1), ("snp", 6), ("ucode", 7))
# Reading a Turin TCB with the first layout gives wrong numbers without any error (attestation.md 6.2).
_TURIN_LAYOUT = (("fmc", 0), ("bl", 1), ("tee", 2), ("snp", 3), ("ucode", 7))

MILAN = Product("Milan", _FIRST_LAYOUT, 64)
GENOA = Product("Genoa", _FIRST_LAYOUT, 64)
TURIN = Product("Turin", _TURIN_LAYOUT, 8)

PRODUCTS: Mapping[str, Product] = MappingProxyType({product.name: product for product in (MILAN, GENOA, TURIN)})

# Silicon lines that attest under one product's keys, but whose microcode is numbered by itself: what is a high number
# for one is a low one for the next, so a floor is a line's (AMD-SB-3019 names the first mended microcode of each).
# A line is named like its product, but for these: (family, models, stepping or any, line).
_LINES = (
    (0x19, range(0x10), 2, "Milan-X"),
    (0x19, range(0x10, 0x20), 2, "Genoa-X"),
    (0x19, range(0xA0, 0xB0), None, "Bergamo"),  # and Siena, which is the same silicon
    (0x1A, range(0x10, 0x12), None, "Turin-Dense"),
)
LINES: Mapping[str, Product] = MappingProxyType(
    {**PRODUCTS, "Milan-X": MILAN, "Genoa-X": GENOA, "Bergamo": GENOA, "Turin-Dense": TURIN}
)

_MODELS = (
    (0x19, range(0x10), MILAN),
    (0x19, range(0x10, 0x20), GENOA),
    (0x19, range(0xA0, 0xB0), GENOA),
    (0x1A, range(0x12), TURIN),
)


def product_of(family: int, model: int) -> Product | None:
    """The product with this CPUID family and model (both combined, as a report carries them); None if unknown."""
    for known_family, models, product in _MODELS:
        if family == known_family and model in models:
            return product
    return None


def line_of(product: Product, cpuid: tuple[int, int, int]) -> str:
    """The silicon line of a processor of ``product`` with this CPUID family, model and stepping."""
    family, model, stepping = cpuid
    for known_family, models, known_stepping, line in _LINES:
        if family == known_family and model in models and known_stepping in (None, stepping):
            return line
    return product.name
