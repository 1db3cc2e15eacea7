"""Does this evidence of an Azure confidential VM hold: quote, HCL report, hardware report. Trust zone: every TEE.

The guest's PCRs are in a TPM quote; the quote's key is named in JSON; the JSON's digest is in an SNP report. Each link
is checked, and the last by the verifier that checks every other SNP report. Source: attestation.md 5.4 and 6.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import rsa

from trusted.attestation.azure_claims import AzureClaims
from trusted.attestation.binding import short_nonce
from trusted.attestation.claims import SnpClaims
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import hcl
from trusted.attestation.formats import snp as snp_format
from trusted.attestation.formats.hcl import ReportType, UnverifiedHclReport
from trusted.attestation.formats.tpm import Scheme
from trusted.attestation.roots import TrustRoot
from trusted.attestation.tpm_claims import QuoteClaims
from trusted.attestation.verify import snp
from trusted.attestation.verify.quote import AttestationKey, verify_quote
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

QUOTE_PART = "quote"
_EXPONENT = 65537
# TDREPORT: REPORTDATA in its first structure, the attributes at the start of TDINFO.
_TD_REPORT_DATA = slice(128, 192)
_TD_ATTRIBUTES = slice(512, 520)
_SEPT_VE_DISABLE = 28


@dataclass(frozen=True, slots=True)
class BoundReport:
    """A quote that holds under a key that the hardware report is over. Nobody has looked at who made that report."""

    hcl: UnverifiedHclReport
    quote: QuoteClaims


def verify(evidence: Evidence, roots: Sequence[TrustRoot], now: datetime) -> VerifiedEvidence:
    """The claims of ``evidence`` (``report``: the HCL report; certificates: those of the SNP report in it).

    1. The vTPM's quote is bound to the hardware report: see :func:`bind`.
    2. The hardware report holds under one of ``roots``, as SNP evidence.
    3. The privileged software of the guest asked for it, at VMPL 0: nothing below the paravisor can name another key.

    Raises:
        AttestationError: GUEST_POLICY, a TDX report, which no verifier here accepts as Azure makes it; VMPL; or what
            ``bind`` and ``snp.verify`` raise.
    """
    bound = bind(evidence)  # 1
    if bound.hcl.report_type is ReportType.TDX:
        raise _tdx_is_refused(bound.hcl.hardware_report)
    inner = Evidence(EvidenceFormat.SNP, bound.hcl.hardware_report, evidence.certificates, evidence.crl)
    inner_roots = {TrustRoot(EvidenceFormat.SNP, root.product, root.sha256): root for root in roots}
    verified = snp.verify(inner, tuple(inner_roots), now)  # 2
    platform = verified.claims
    if not isinstance(platform, SnpClaims) or platform.vmpl != 0:  # 3
        raise AttestationError(Reason.VMPL, "hcl.hardware report: made at VMPL 0, by the paravisor, expected")
    claims = AzureClaims(
        format=evidence.format,
        quote=bound.quote,
        snp=platform,
        configuration=bound.hcl.configuration,
        user_data=bound.hcl.user_data,
        variable_data_sha256=sha256(bound.hcl.variable_data),
        fresh_report=short_nonce(bound.hcl.user_data) == bound.quote.extra_data,
    )
    return VerifiedEvidence(claims, inner_roots[verified.root], verified.not_after, evidence.digest)


def bind(evidence: Evidence) -> BoundReport:
    """The quote of ``evidence``, made by the key that its hardware report speaks of.

    1. The HCL report is well formed.
    2. The hardware report's data is SHA-256 of the JSON, then zeros.
    3. The quote holds under the key in the JSON. The paravisor makes it, so its kind is not asked for.

    Raises:
        AttestationError: KEY_BINDING, or what ``hcl.parse`` and ``verify_quote`` raise.
    """
    report = hcl.parse(evidence.report)  # 1
    if _report_data(report) != sha256(report.variable_data) + bytes(32):  # 2
        raise AttestationError(Reason.KEY_BINDING, "hcl.variable data: what the hardware report is over expected")
    try:
        key = rsa.RSAPublicNumbers(_EXPONENT, report.ak.modulus).public_key()
    except ValueError:
        raise AttestationError(Reason.KEY_BINDING, "hcl.HCLAkPub: an odd modulus expected") from None
    ak = AttestationKey(key, Scheme.RSASSA_SHA256)
    return BoundReport(report, verify_quote(evidence.part(QUOTE_PART), ak, evidence))  # 3


def _report_data(report: UnverifiedHclReport) -> bytes:
    if report.report_type is ReportType.TDX:
        return report.hardware_report[_TD_REPORT_DATA]
    return snp_format.parse(report.hardware_report).report_data


def _tdx_is_refused(td_report: bytes) -> AttestationError:
    attributes = int.from_bytes(td_report[_TD_ATTRIBUTES], "little")
    if not attributes >> _SEPT_VE_DISABLE & 1:
        return AttestationError(
            Reason.GUEST_POLICY,
            "hcl.hardware report: Azure's TDX paravisor runs with SEPT_VE_DISABLE=0, which is refused: the host may "
            "take pages away unseen; use a VM with SEV-SNP",
        )
    return AttestationError(Reason.EVIDENCE_FORMAT, "hcl.report type: SNP expected; use a VM with SEV-SNP")
