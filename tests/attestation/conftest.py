"""A policy and a binding that the shared chip's evidence meets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from softtee.chip import Chip, SoftwareRoot
from softtee.report import ReportFields
from trusted.attestation.appraise import Expected, verify
from trusted.attestation.evidence import Evidence
from trusted.attestation.policies.snp import SnpPolicy, development_snp_policy
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason

MEASUREMENT = b"\x11" * 48
REPORT_DATA = b"\x22" * 64
HOST_DATA = b"\x33" * 32
EXPECTED = Expected(REPORT_DATA, HOST_DATA)

Verified = Callable[..., VerifiedEvidence]
RootOf = Callable[[str], SoftwareRoot]


def attest_with(chip: Chip, **changes: Any) -> Evidence:
    """Evidence of ``chip`` over the constants above, with some fields of the report changed."""
    fields: ReportFields = replace(chip.fields(), **changes)
    binding = {
        "report_data": changes.get("report_data", REPORT_DATA),
        "measurement": changes.get("measurement", MEASUREMENT),
        "host_data": changes.get("host_data", HOST_DATA),
    }
    return chip.attest(**binding, fields=fields)


@pytest.fixture(scope="session")
def verified(chip: Chip, software_root: SoftwareRoot, now: datetime) -> Verified:
    """Verified evidence of the shared chip, with some fields of the report changed."""
    return lambda **changes: verify(attest_with(chip, **changes), [software_root.trust_root], now)


@pytest.fixture
def policy() -> SnpPolicy:
    """The development policy for the constants above."""
    return development_snp_policy([MEASUREMENT])


def refused(evidence: Evidence, root: TrustRoot, now: datetime) -> Reason:
    """Why ``verify`` refuses ``evidence``, which it must."""
    with pytest.raises(AttestationError) as error:
        verify(evidence, [root], now)
    return error.value.reason


@pytest.fixture(scope="session")
def root(software_root: SoftwareRoot) -> TrustRoot:
    """The shared root as a verifier knows it."""
    return software_root.trust_root


@pytest.fixture(scope="session")
def other_root(software_root: SoftwareRoot, now: datetime) -> SoftwareRoot:
    """Another software root for the same product, with the same two keys the other way round."""
    return SoftwareRoot.from_keys(software_root.ask.key, software_root.ark.key, now=now, product="Genoa")


@pytest.fixture(scope="session")
def root_of(software_root: SoftwareRoot, now: datetime) -> RootOf:
    """A software root for another product."""
    keys = software_root.ark.key, software_root.ask.key
    return lambda product: SoftwareRoot.from_keys(*keys, now=now, product=product)
