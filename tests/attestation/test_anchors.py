"""The pinned roots against the vendor's files."""

from __future__ import annotations

import pytest

from tests.attestation.vectors import folder, pem_chain
from trusted.attestation.anchors import AMD_ROOTS, is_vendor_root
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.roots import Assurance, TrustRoot, amd_root
from trusted.errors import WireError
from trusted.wire import sha256


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("chain", ["ask_ark", "vlek_ask_ark"])
def test_pinned_digest_is_that_of_the_vendors_root(product: str, chain: str) -> None:
    _, ark = pem_chain(folder("anchors", "amd") / f"{product.lower()}_{chain}.pem")
    assert AMD_ROOTS[product] == sha256(ark)
    assert is_vendor_root(EvidenceFormat.SNP, sha256(ark))


def test_only_a_pinned_root_has_the_assurance_of_hardware() -> None:
    pinned = AMD_ROOTS["Genoa"]
    assert amd_root("Genoa").assurance is Assurance.HARDWARE
    for digest in (bytes(32), pinned[:-1] + bytes([pinned[-1] ^ 1]), b"\xff" * 32):
        assert not is_vendor_root(EvidenceFormat.SNP, digest)
        assert TrustRoot(EvidenceFormat.SNP, "Genoa", digest).assurance is Assurance.NONE


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_root_is_named_by_a_whole_digest(size: int) -> None:
    with pytest.raises(WireError):
        TrustRoot(EvidenceFormat.SNP, "Genoa", AMD_ROOTS["Genoa"].ljust(33, b"\x00")[:size])


def test_there_is_no_root_for_an_unknown_product() -> None:
    with pytest.raises(ValueError, match="Milan, Genoa, Turin"):
        amd_root("Venice")
