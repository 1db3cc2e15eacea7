"""What a verifier trusts, and how far (docs/protocol.md §2, ``roots``). Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType

from trusted.attestation.anchors import AMD_ROOTS, AWS_ROOT, INTEL_ROOT, NVIDIA_ROOTS, is_vendor_root
from trusted.attestation.evidence import EvidenceFormat
from trusted.wire import exactly


@unique
class Assurance(Enum):
    """What stands behind a root key. It is found out by comparing with the pinned roots, never declared."""

    NONE = "none"
    HARDWARE = "hardware"

    @property
    def rank(self) -> int:
        """0 for ``none``; higher is better."""
        return list(Assurance).index(self)


@dataclass(frozen=True, slots=True)
class TrustRoot:
    """One root key that a charter names.

    Attributes:
        format: the evidence it may stand behind.
        product: the one product it may vouch for: for SNP ``Milan``, ``Genoa`` or ``Turin``; elsewhere the
            platform's name.
        sha256: of the root certificate's DER (for SNP the ARK), or of the key where there is no certificate, 32 bytes.
    """

    format: EvidenceFormat
    product: str
    sha256: bytes

    def __post_init__(self) -> None:
        exactly(self.sha256, 32, "sha256")

    @property
    def assurance(self) -> Assurance:
        """``hardware`` for a vendor's pinned root; ``none`` for any other, which is a software root."""
        return Assurance.HARDWARE if is_vendor_root(self.format, self.sha256) else Assurance.NONE


def amd_root(product: str) -> TrustRoot:
    """AMD's own root for ``product``.

    Raises:
        ValueError: a product for which no root is pinned.
    """
    if product not in AMD_ROOTS:
        raise ValueError(f"product: one of {', '.join(AMD_ROOTS)} expected")
    return TrustRoot(EvidenceFormat.SNP, product, AMD_ROOTS[product])


def nvidia_roots() -> tuple[TrustRoot, ...]:
    """NVIDIA's own roots: for its devices, and for its reference values."""
    return tuple(TrustRoot(EvidenceFormat.NVIDIA_GPU, product, digest) for product, digest in NVIDIA_ROOTS.items())


# What a charter calls the vendors' own roots. Platforms whose makers publish no lasting root (CCA, TPMs, Google) have
# none here: members pin theirs by digest, and the assurance stays ``none``.
VENDOR_ROOTS: Mapping[str, tuple[TrustRoot, ...]] = MappingProxyType(
    {
        **{product: (amd_root(product),) for product in AMD_ROOTS},
        "TDX": (TrustRoot(EvidenceFormat.TDX, "TDX", INTEL_ROOT),),
        "SGX": (TrustRoot(EvidenceFormat.SGX, "SGX", INTEL_ROOT),),
        "Nitro": (TrustRoot(EvidenceFormat.NITRO, "Nitro", AWS_ROOT),),
        "Azure": tuple(TrustRoot(EvidenceFormat.AZURE_VTPM, product, AMD_ROOTS[product]) for product in AMD_ROOTS),
        "NVIDIA": nvidia_roots(),
    }
)
