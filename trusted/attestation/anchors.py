"""The vendors' root keys, pinned by digest (attestation.md sections 2 and 7). Trust zone: every TEE.

Only these give the assurance ``hardware``. They are constants of the measured code: nothing read at run time adds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trusted.attestation.evidence import EvidenceFormat

# SHA-256 over the DER of each AMD Root Key certificate, as AMD's Key Distribution Service gives it (cert_chain).
# The same ARK heads a product's VCEK chain (through SEV-<product>) and its VLEK chain (through SEV-VLEK-<product>).
AMD_ROOTS: Mapping[str, bytes] = MappingProxyType(
    {
        "Milan": bytes.fromhex("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
        "Genoa": bytes.fromhex("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
        "Turin": bytes.fromhex("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
    }
)

# SHA-256 over the DER of the Intel SGX Root CA certificate, which heads TDX and SGX alike.
INTEL_ROOT = bytes.fromhex("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3")

# SHA-256 over the DER of AWS_NitroEnclaves_Root-G1, the fingerprint that AWS's documentation names.
AWS_ROOT = bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")

# SHA-256 over the DER of the NVIDIA Device Identity CA, and of the NVIDIA CoRIM signing Root CA (reference values).
# A root's product says which of the two it stands for.
NVIDIA_DEVICE, NVIDIA_RIM = "NVIDIA GPU", "NVIDIA RIM"
NVIDIA_ROOTS: Mapping[str, bytes] = MappingProxyType(
    {
        NVIDIA_DEVICE: bytes.fromhex("102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"),
        NVIDIA_RIM: bytes.fromhex("12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"),
    }
)

_VENDOR_ROOTS: Mapping[EvidenceFormat, frozenset[bytes]] = MappingProxyType(
    {
        EvidenceFormat.SNP: frozenset(AMD_ROOTS.values()),
        EvidenceFormat.TDX: frozenset({INTEL_ROOT}),
        EvidenceFormat.SGX: frozenset({INTEL_ROOT}),
        EvidenceFormat.NITRO: frozenset({AWS_ROOT}),
        EvidenceFormat.CCA: frozenset(),  # each platform's maker has its own keys, and none has published any
        EvidenceFormat.NVIDIA_GPU: frozenset(NVIDIA_ROOTS.values()),
        EvidenceFormat.TPM: frozenset(),  # a maker's word about a key says nothing of who can read the memory
        EvidenceFormat.AZURE_VTPM: frozenset(AMD_ROOTS.values()),
        EvidenceFormat.GCP_CS: frozenset(),  # Google's key set changes: members pin the one of the day
    }
)


def is_vendor_root(format: EvidenceFormat, sha256: bytes) -> bool:
    """Whether ``sha256`` (of the root's DER, 32 bytes) is a root key of the format's hardware vendor."""
    return sha256 in _VENDOR_ROOTS[format]
