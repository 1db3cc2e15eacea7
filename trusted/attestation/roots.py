"""What a verifier trusts, and how far (docs/protocol.md §2, ``roots``). Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType

from trusted.attestation.anchors import AMD_ROOTS, AWS_ROOT, INTEL_ROOT, NVIDIA_ROOTS, is_vendor_root
from trusted.attestation.evidence import EvidenceFormat
from trusted.errors import DocumentError, Reason
from trusted.wire import exactly


@unique
class Assurance(Enum):
    """What stands behind evidence, weakest first. No evidence raises its own: charter and pinned roots decide.

    Attributes:
        NONE: nobody; software may have made it.
        PROVIDER: a cloud or an owner, by the members' word in the charter's root; no silicon vendor's root reaches us.
        HARDWARE: a silicon vendor's pinned root. Which of the vendor's machines it is, nobody says.
        POSSESSION: the same, and the machine stands on the policy's list of machines that members vouch for.
    """

    NONE = "none"
    PROVIDER = "provider"
    HARDWARE = "hardware"
    POSSESSION = "possession"

    @property
    def rank(self) -> int:
        """0 for ``none``; higher is better."""
        return list(Assurance).index(self)

    def reaches(self, minimum: Assurance) -> bool:
        """Whether it is ``minimum`` or better."""
        return self.rank >= minimum.rank


# Where members may say that a provider stands behind a root. Elsewhere a root is the silicon vendor's, or software's.
PROVIDER_FORMATS = frozenset({EvidenceFormat.TPM, EvidenceFormat.GCP_CS, EvidenceFormat.CCA})


@dataclass(frozen=True, slots=True)
class TrustRoot:
    """One root key that a charter names.

    Attributes:
        format: the evidence it may stand behind.
        product: the one product it may vouch for: for SNP ``Milan``, ``Genoa`` or ``Turin``; elsewhere the
            platform's name.
        sha256: of the root certificate's DER (for SNP the ARK), or of the key where there is no certificate, 32 bytes.
        vouched: what the members say of it: ``provider`` where a provider stands behind it, else ``none``.
    """

    format: EvidenceFormat
    product: str
    sha256: bytes
    vouched: Assurance = Assurance.NONE

    def __post_init__(self) -> None:
        """Refuse what no charter may say.

        Raises:
            DocumentError: DOCUMENT_RULE: more than ``provider``, or of a format whose roots are silicon vendors'.
        """
        exactly(self.sha256, 32, "sha256")
        if Assurance.PROVIDER.rank < self.vouched.rank or (
            self.vouched is Assurance.PROVIDER and self.format not in PROVIDER_FORMATS
        ):
            formats = ", ".join(sorted(format.value for format in PROVIDER_FORMATS))
            raise DocumentError(Reason.DOCUMENT_RULE, f"root.assurance: provider, and that for {formats} alone")

    @property
    def assurance(self) -> Assurance:
        """``hardware`` for a vendor's pinned root; for any other what the members say of it."""
        return Assurance.HARDWARE if is_vendor_root(self.format, self.sha256) else self.vouched


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
# none here: members pin theirs by digest, and say in the charter whether a provider stands behind it.
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
