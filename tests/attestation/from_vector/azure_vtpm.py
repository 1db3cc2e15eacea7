"""Azure vectors: ``hcl_report.bin``, ``quote.msg``, ``quote.sig``, ``pcrs_sha256.json``; for SNP the certificates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.attestation.from_vector import Loaded, files, snp
from tests.attestation.from_vector.tpm import pcr_values, rule_of, tpmt_signature
from trusted.attestation.azure_claims import AzureClaims
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import hcl
from trusted.attestation.formats.hcl import ReportType
from trusted.attestation.formats.snp import parse as parse_snp
from trusted.attestation.formats.tpm import parse_quote
from trusted.attestation.policies.azure_vtpm import AzureVtpmPolicy, strict_azure_vtpm_policy
from trusted.attestation.policies.rules import Demand, Permission, Skip
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify import azure
from trusted.wire import sha256

ROOTS = tuple(TrustRoot(EvidenceFormat.AZURE_VTPM, root.product, root.sha256) for root in snp.ROOTS)
_BINDING_STAGE = "tpm+hcl binding only"
_NO_LOG = Skip("the vector carries no event log")


def load(folder: Path, provenance: dict[str, Any]) -> Loaded:
    """The vector in ``folder``."""
    quote = (folder / "quote.msg").read_bytes()
    parts = {"pcrs": pcr_values(folder, quote), "quote": quote, "signature": tpmt_signature(folder)}
    parts |= dict([("event-log", log) for log in files.event_logs(folder).values()][:1])
    report = (folder / "hcl_report.bin").read_bytes()
    is_snp = hcl.parse(report).report_type is ReportType.SNP
    chain = snp.certificate_chain(folder) if is_snp else ()
    lists = sorted(path for path in folder.iterdir() if "crl" in path.name)
    crl = lists[0].read_bytes() if lists else b""
    evidence = Evidence(EvidenceFormat.AZURE_VTPM, report, chain, crl, tuple(sorted(parts.items())))
    return Loaded(
        evidence=evidence,
        roots=ROOTS,
        policy=policy_for(evidence, crl=bool(lists)),
        expected_claims=lambda claims: {**parsed(evidence), **from_claims(claims)},
        parsed_claims=lambda: parsed(evidence),
        stages=MappingProxyType({_BINDING_STAGE: lambda now: azure.bind(evidence)}),
    )


def policy_for(evidence: Evidence, *, crl: bool) -> AzureVtpmPolicy:
    """The strict template for what the vector measures. Microsoft's machines of the time have a console."""
    quote = parse_quote(evidence.part("quote"))
    report = hcl.parse(evidence.report)
    nobody = bytes([1]) * 48
    policy = strict_azure_vtpm_policy([quote.pcr_digest], selection=rule_of(quote).selection, paravisors=[nobody])
    if report.report_type is ReportType.SNP:
        inner = snp.policy_for(parse_snp(report.hardware_report), evidence.certificates[-1], crl=crl)
        policy = replace(policy, snp=inner)
    return replace(policy, event_log=_NO_LOG, console=Permission.ALLOW, fresh_report=Demand.ANY)


def parsed(evidence: Evidence) -> dict[str, Any]:
    """What the parsers read, in the words of the provenance files."""
    report = hcl.parse(evidence.report)
    quote = parse_quote(evidence.part("quote"))
    found: dict[str, Any] = {
        "report_type": report.report_type.name.lower(),
        "hash": "sha256",  # the parser lets no other through
        "var_data_digest": sha256(report.variable_data).hex(),
        "user_data": report.user_data.hex(),
        "vm_configuration": _configuration(report.configuration),
        "tpm_extra_data": quote.extra_data.hex(),
        "pcr_digest": quote.pcr_digest.hex(),
        "pcr_selection": [[item.bank.label, list(item.indexes)] for item in quote.selections],
    }
    if report.report_type is ReportType.SNP:
        found["snp"] = snp.from_report(report.hardware_report)
    return found


def from_claims(claims: AzureClaims) -> dict[str, Any]:
    """What verified claims say."""
    return {
        "var_data_digest": claims.variable_data_sha256.hex(),
        "user_data": claims.user_data.hex(),
        "vm_configuration": _configuration(claims.configuration),
        "tpm_extra_data": claims.report_data.hex(),
        "pcr_digest": claims.measurement.hex(),
        "pcr_selection": [[item.bank.label, list(item.indexes)] for item in claims.quote.selections],
    }


def _configuration(configuration: hcl.VmConfiguration) -> dict[str, Any]:
    found = {
        "console-enabled": configuration.console_enabled,
        "root-cert-thumbprint": configuration.root_cert_thumbprint,
        "secure-boot": configuration.secure_boot,
        "tpm-enabled": configuration.tpm_enabled,
        "tpm-persisted": configuration.tpm_persisted,
        "vmUniqueId": configuration.vm_id,
    }
    return {name: value for name, value in found.items() if value is not None}
