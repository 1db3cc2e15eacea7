"""The four levels: who decides each, and that no evidence, and nothing left out of a policy, raises one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import pytest

from tests.attestation.conftest import EXPECTED, Verified
from trusted.attestation.anchors import AMD_ROOTS
from trusted.attestation.appraise import appraise, assurance_of, examine
from trusted.attestation.claims import InstanceKey
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.platforms import PLATFORMS
from trusted.attestation.policies.check import Subject, Verdict
from trusted.attestation.policies.rules import Skip
from trusted.attestation.policies.snp import SnpPolicy
from trusted.attestation.roots import PROVIDER_FORMATS, Assurance, TrustRoot
from trusted.attestation.trust_vector import Tier, trust_vector
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.documents.charter import _read_root, _write_root
from trusted.errors import AttestationError, DocumentError, ProtocolError, Reason

ANY_CHIP = Skip("any chip")
GENOA = TrustRoot(EvidenceFormat.SNP, "Genoa", AMD_ROOTS["Genoa"])


@pytest.fixture
def genuine(verified: Verified) -> VerifiedEvidence:
    """Verified evidence as if AMD's own root headed its chain."""
    return replace(verified(), root=GENOA)


@pytest.fixture
def listing(policy: SnpPolicy, genuine: VerifiedEvidence) -> Callable[..., SnpPolicy]:
    """A policy with this list of chips."""
    return lambda *chips, **changes: replace(policy, chip_ids=chips or (genuine.claims.hardware_id,), **changes)


def test_the_levels_are_ordered_and_each_reaches_those_below() -> None:
    assert [level.value for level in Assurance] == ["none", "provider", "hardware", "possession"]
    for lower, higher in pairwise(Assurance):
        assert higher.reaches(lower)
        assert lower.reaches(lower)
        assert not lower.reaches(higher)


def test_hardware_on_the_members_list_is_possession(
    genuine: VerifiedEvidence, listing: Callable[..., SnpPolicy], now: datetime
) -> None:
    policy = listing(assurance=Assurance.POSSESSION)
    result = appraise(genuine, policy, EXPECTED, now)
    assert result.assurance is Assurance.POSSESSION
    assert result.vector.instance_identity == 2


@pytest.mark.parametrize("neighbour", ["skipped", "empty", "another chip", "a bit flipped", "a byte short"])
def test_without_its_machine_on_the_list_there_is_no_possession(
    genuine: VerifiedEvidence, policy: SnpPolicy, now: datetime, neighbour: str
) -> None:
    own = genuine.claims.hardware_id
    lists = {
        "skipped": ANY_CHIP,
        "empty": (),
        "another chip": (bytes(range(64)),),
        "a bit flipped": (own[:-1] + bytes([own[-1] ^ 1]),),
        "a byte short": (own[:-1],),
    }
    asking = replace(policy, chip_ids=lists[neighbour], assurance=Assurance.POSSESSION)
    assert assurance_of(genuine, asking, now) is Assurance.HARDWARE
    failed = {check.claim: check.reason for check in examine(genuine, asking, EXPECTED, now) if _failed(check.verdict)}
    assert failed["assurance"] is Reason.ASSURANCE
    with pytest.raises(AttestationError):
        appraise(genuine, asking, EXPECTED, now)


def _failed(verdict: Verdict) -> bool:
    return verdict is Verdict.FAIL


def test_a_list_makes_no_hardware_of_software(
    verified: Verified, listing: Callable[..., SnpPolicy], now: datetime
) -> None:
    software = verified()
    assert assurance_of(software, listing(software.claims.hardware_id), now) is Assurance.NONE


def test_a_key_that_names_no_chip_is_possession_of_nothing_even_when_zeros_are_listed(
    genuine: VerifiedEvidence, listing: Callable[..., SnpPolicy], now: datetime
) -> None:
    platform = replace(
        genuine.claims.platform,  # type: ignore[attr-defined]
        hardware_id=bytes(64),
        instance_key=InstanceKey.PROVIDER,
        provider="a cloud",
    )
    vlek = replace(genuine, claims=replace(genuine.claims, platform=platform))  # type: ignore[type-var]
    assert assurance_of(vlek, listing(bytes(64)), now) is Assurance.HARDWARE


def test_every_list_of_machines_is_a_knob_that_refuses_machines() -> None:
    named = {format: platform.machines for format, platform in PLATFORMS.items() if platform.machines}
    assert set(named) == {
        EvidenceFormat.SNP,
        EvidenceFormat.TDX,
        EvidenceFormat.SGX,
        EvidenceFormat.NITRO,
        EvidenceFormat.NVIDIA_GPU,
    }
    for format, knob in named.items():
        assert PLATFORMS[format].checks[knob].reason is Reason.HARDWARE_NOT_ALLOWED


@pytest.mark.parametrize("format", sorted(PROVIDER_FORMATS, key=lambda format: format.value))
def test_the_members_say_that_a_provider_stands_behind_a_root(format: EvidenceFormat) -> None:
    root = TrustRoot(format, "a product", bytes(32), Assurance.PROVIDER)
    assert root.assurance is Assurance.PROVIDER
    assert _read_root(_write_root(root)) == root
    silent = _write_root(root)
    del silent["assurance"]
    assert _read_root(silent).assurance is Assurance.NONE


@pytest.mark.parametrize("format", sorted(set(EvidenceFormat) - PROVIDER_FORMATS, key=lambda format: format.value))
def test_no_word_makes_more_of_a_software_root_where_silicon_vendors_have_roots(format: EvidenceFormat) -> None:
    with pytest.raises(DocumentError) as error:
        TrustRoot(format, "Genoa", bytes(32), Assurance.PROVIDER)
    assert error.value.reason is Reason.DOCUMENT_RULE


@pytest.mark.parametrize("level", [Assurance.HARDWARE, Assurance.POSSESSION])
def test_nobody_can_say_that_a_root_is_hardware(level: Assurance) -> None:
    with pytest.raises(DocumentError):
        TrustRoot(EvidenceFormat.TPM, "TPM", bytes(32), level)
    entry = {"format": "tpm", "product": "TPM", "sha256": "00" * 32, "assurance": level.value}
    with pytest.raises(ProtocolError):
        _read_root(entry)


@pytest.mark.parametrize("value", ["", "none", None, 1, True, {"skip": "why"}])
def test_a_root_says_provider_or_nothing(value: object) -> None:
    with pytest.raises(ProtocolError):
        _read_root({"format": "tpm", "product": "TPM", "sha256": "00" * 32, "assurance": value})


def test_the_vector_of_a_providers_word_is_a_warning_and_never_affirming(
    genuine: VerifiedEvidence, policy: SnpPolicy, now: datetime
) -> None:
    checks = examine(genuine, replace(policy, chip_ids=ANY_CHIP), EXPECTED, now)
    tiers = []
    for level in Assurance:
        tiers.append(trust_vector(Subject(genuine.claims, level, now), checks, frozenset()).status)
    assert tiers == [Tier.CONTRAINDICATED, Tier.WARNING, tiers[2], tiers[2]]
    assert tiers[2] is not Tier.CONTRAINDICATED


def test_no_change_of_a_single_policy_field_raises_the_level(
    genuine: VerifiedEvidence, listing: Callable[..., SnpPolicy], now: datetime
) -> None:
    """Each knob removed is unreadable; emptied it either does not read, or admits at no higher level."""
    asking = listing(assurance=Assurance.POSSESSION)
    whole = asking.to_json()
    for name in whole:
        with pytest.raises(ProtocolError):
            SnpPolicy.from_json({key: value for key, value in whole.items() if key != name})
    for empty in ([], {}, "", None, 0, False):
        with pytest.raises(ProtocolError):
            SnpPolicy.from_json(whole | {"assurance": empty})
        try:
            unlisted = SnpPolicy.from_json(whole | {"chip_ids": empty})
        except ProtocolError:
            continue
        with pytest.raises(AttestationError):
            appraise(genuine, unlisted, EXPECTED, now)
    with pytest.raises(AttestationError) as error:
        appraise(genuine, replace(asking, chip_ids=ANY_CHIP), EXPECTED, now)
    assert error.value.reason is Reason.ASSURANCE
