"""Evidence of one format offered as another is refused, genuine as it is; another platform's policy judges nothing."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.attestation.test_all_vectors import ANCHORS, ANY_TIME, FOLDER
from trusted.attestation.appraise import Expected, examine, verify
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.platforms import PLATFORMS
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.roots import VENDOR_ROOTS, TrustRoot
from trusted.errors import AttestationError, ProtocolError, Reason

pytestmark = [
    pytest.mark.vectors,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no vendor vectors at {FOLDER}: set CLOISTER_VECTORS"),
]
# One genuine vector for each format, and a time at which it holds.
GENUINE = {
    "snp": ("genoa_v5_oak", ANY_TIME),
    "tdx": ("v4_uptodate_phala", None),
    "sgx": ("v3_config_and_sw_hardening_phala", None),
    "nitro": ("valid_with_nonce_2022", None),
    "azure_vtpm": ("snp_genoa", None),
    "tpm": ("rsa_quote_trustee", ANY_TIME),
    "nvidia": ("hopper_550_trustee", ANY_TIME),
    "cca": ("draft_ffm_00", ANY_TIME),
}


def loaded(name: str):
    folder = FOLDER / name / GENUINE[name][0]
    provenance = json.loads((folder / "provenance.json").read_text())
    module = importlib.import_module(f"tests.attestation.from_vector.{name}")
    case = next(case for case in provenance["cases"] if case["expect"] == "valid")
    moment = GENUINE[name][1] or datetime.fromtimestamp(case["unix"], UTC)
    return module.load(folder, provenance), moment


def every_root(format: EvidenceFormat, roots: tuple[TrustRoot, ...]) -> list[TrustRoot]:
    """Whatever is trusted anywhere, trusted for ``format``: so that the form of the evidence alone decides."""
    known = [*roots, *(root for named in VENDOR_ROOTS.values() for root in named)]
    return [replace(root, format=format, product=product) for root in known for product in (root.product, "Genoa")]


def test_each_format_has_a_genuine_vector_here():
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()} - {ANCHORS}
    assert folders == set(GENUINE)


@pytest.mark.parametrize("name", list(GENUINE))
def test_genuine_evidence_holds_as_what_it_is(name):
    vector, moment = loaded(name)
    assert verify(vector.evidence, vector.roots, moment).claims.format is vector.evidence.format


@pytest.mark.parametrize("claimed", list(EvidenceFormat), ids=lambda format: format.value)
@pytest.mark.parametrize("name", list(GENUINE))
def test_genuine_evidence_holds_as_nothing_else(name, claimed):
    vector, moment = loaded(name)
    if claimed is vector.evidence.format:
        return
    with pytest.raises(ProtocolError):
        verify(replace(vector.evidence, format=claimed), every_root(claimed, vector.roots), moment)


@pytest.mark.parametrize("name", list(GENUINE))
def test_a_role_that_does_not_name_the_platform_refuses_it(name):
    vector, _ = loaded(name)
    others = {format: None for format in EvidenceFormat if format is not vector.evidence.format}
    with pytest.raises(AttestationError) as caught:
        AppraisalPolicy(others).for_format(vector.evidence.format)
    assert caught.value.reason is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize("name", list(GENUINE))
def test_another_platforms_policy_judges_nothing(name):
    vector, moment = loaded(name)
    verified = verify(vector.evidence, vector.roots, moment)
    expected = Expected(bytes(64), bytes(32))
    for other in GENUINE:
        policy = loaded(other)[0].policy
        if not isinstance(policy, PLATFORMS[vector.evidence.format].policy):
            with pytest.raises(ValueError, match="policy"):
                examine(verified, policy, expected, moment)
