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

_VENDOR_ROOTS: Mapping[EvidenceFormat, frozenset[bytes]] = MappingProxyType(
    {EvidenceFormat.SNP: frozenset(AMD_ROOTS.values())}
)


def is_vendor_root(format: EvidenceFormat, sha256: bytes) -> bool:
    """Whether ``sha256`` (of the root's DER, 32 bytes) is a root key of the format's hardware vendor."""
    return sha256 in _VENDOR_ROOTS[format]
