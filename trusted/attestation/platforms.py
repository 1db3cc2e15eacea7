"""The platforms there are: for each evidence format its verifier, its policy and its checks. Trust zone: every TEE.

Adding a platform adds its files and one entry here; what is not here is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.policies import (
    azure_vtpm_checks,
    cca_checks,
    gcp_cs_checks,
    intel_checks,
    nitro_checks,
    nvidia_checks,
    sgx_checks,
    snp_checks,
    tdx_checks,
    tpm_checks,
)
from trusted.attestation.policies.azure_vtpm import AzureVtpmPolicy
from trusted.attestation.policies.cca import CcaPolicy
from trusted.attestation.policies.check import Check, Finding, KnobCheck, Subject
from trusted.attestation.policies.gcp_cs import GcpCsPolicy
from trusted.attestation.policies.knob import PlatformPolicy
from trusted.attestation.policies.nitro import NitroPolicy
from trusted.attestation.policies.nvidia import NvidiaPolicy
from trusted.attestation.policies.sgx import SgxPolicy
from trusted.attestation.policies.snp import SnpPolicy
from trusted.attestation.policies.tdx import TdxPolicy
from trusted.attestation.policies.tpm import TpmPolicy
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify import azure, cca, dcap, gcp, nitro, nvidia, snp, tpm
from trusted.attestation.verify.verified import VerifiedEvidence

Verifier = Callable[[Evidence, Sequence[TrustRoot], datetime], VerifiedEvidence]


def _nothing_more(subject: Subject) -> Iterator[Check]:
    return iter(())


def _every_skip_holds(subject: Subject, knob: str) -> Finding | None:
    return None


def _no_further_expiry(claims: Any, policy: Any) -> Iterator[datetime]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform.

    Attributes:
        verify: cryptography alone, evidence to claims.
        policy: the dataclass of its knobs.
        checks: one for each knob, in their order.
        host_data: the claims' 32 bytes that the host fixed at launch; None where the platform has no such field.
        always: checks that no knob switches off.
        skipped: a finding where a skip of this knob does not hold.
        expiries: further times at which a result under this policy ends.
        machines: the knob with the list of the members' own machines; empty where no vendor vouches for which it is.
    """

    verify: Verifier
    policy: type[PlatformPolicy]
    checks: Mapping[str, KnobCheck]
    host_data: Callable[[Any], bytes | None]
    always: Callable[[Subject], Iterator[Check]] = _nothing_more
    skipped: Callable[[Subject, str], Finding | None] = _every_skip_holds
    expiries: Callable[[Any, Any], Iterator[datetime]] = _no_further_expiry
    machines: str = ""


PLATFORMS: Mapping[EvidenceFormat, Platform] = MappingProxyType(
    {
        EvidenceFormat.SNP: Platform(
            verify=snp.verify,
            policy=SnpPolicy,
            checks=snp_checks.KNOB_CHECKS,
            host_data=lambda claims: claims.host_data,
            always=snp_checks.always,
            skipped=snp_checks.skipped,
            expiries=snp_checks.expiries,
            machines="chip_ids",
        ),
        EvidenceFormat.TDX: Platform(
            verify=dcap.verify_tdx,
            policy=TdxPolicy,
            checks=tdx_checks.KNOB_CHECKS,
            host_data=lambda claims: claims.host_data,
            expiries=intel_checks.expiries,
            machines="ppids",
        ),
        EvidenceFormat.SGX: Platform(
            verify=dcap.verify_sgx,
            policy=SgxPolicy,
            checks=sgx_checks.KNOB_CHECKS,
            host_data=lambda claims: None,
            expiries=intel_checks.expiries,
            machines="ppids",
        ),
        EvidenceFormat.NITRO: Platform(
            verify=nitro.verify,
            policy=NitroPolicy,
            checks=nitro_checks.KNOB_CHECKS,
            host_data=lambda claims: None,
            machines="instances",
        ),
        EvidenceFormat.CCA: Platform(
            verify=cca.verify,
            policy=CcaPolicy,
            checks=cca_checks.KNOB_CHECKS,
            host_data=lambda claims: claims.host_data,
        ),
        EvidenceFormat.NVIDIA_GPU: Platform(
            verify=nvidia.verify,
            policy=NvidiaPolicy,
            checks=nvidia_checks.KNOB_CHECKS,
            host_data=lambda claims: None,
            skipped=nvidia_checks.skipped,
            expiries=nvidia_checks.expiries,
            machines="device_ids",
        ),
        EvidenceFormat.TPM: Platform(
            verify=tpm.verify,
            policy=TpmPolicy,
            checks=tpm_checks.KNOB_CHECKS,
            host_data=lambda claims: None,
        ),
        EvidenceFormat.AZURE_VTPM: Platform(
            verify=azure.verify,
            policy=AzureVtpmPolicy,
            checks=azure_vtpm_checks.KNOB_CHECKS,
            host_data=lambda claims: None,
            always=azure_vtpm_checks.always,
            expiries=azure_vtpm_checks.expiries,
        ),
        EvidenceFormat.GCP_CS: Platform(
            verify=gcp.verify,
            policy=GcpCsPolicy,
            checks=gcp_cs_checks.KNOB_CHECKS,
            host_data=lambda claims: None,
            always=gcp_cs_checks.always,
            expiries=gcp_cs_checks.expiries,
        ),
    }
)
