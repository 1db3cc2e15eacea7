"""SEV-SNP vectors: ``report.bin``, the certificates of CEK, ASK and ARK, and a revocation list where one came along."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509

from tests.attestation.from_vector import Loaded, files
from trusted.attestation.claims import InstanceKey, SnpClaims, Tcb
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.snp import GUEST_FLAGS, PLATFORM_FLAGS, SigningKey, UnverifiedSnpReport, parse
from trusted.attestation.policies.rules import Skip, write_time
from trusted.attestation.policies.snp import SnpPolicy, strict_snp_policy
from trusted.attestation.products import PRODUCTS
from trusted.attestation.roots import amd_root
from trusted.attestation.verify.certificates import read_certificate
from trusted.evidence.configfs_tsm import parse_certificate_table
from trusted.wire import sha256

ROOTS = tuple(amd_root(product) for product in PRODUCTS)
_COMMON_NAME = x509.NameOID.COMMON_NAME.dotted_string
_CEK_NAMES = ("SEV-VCEK", "SEV-VLEK")
_CPUID = slice(0x188, 0x18B)
_FIRST_WITH_CPUID = 3
_MUST_BE_ONE = 1 << 17


def load(folder: Path, provenance: dict[str, Any]) -> Loaded:
    """The vector in ``folder``."""
    lists = sorted(path for path in folder.iterdir() if "crl" in path.name)
    report = files.one(folder, "report.bin", "*report*.bin", "outblob").read_bytes()
    chain = certificate_chain(folder)
    evidence = Evidence(EvidenceFormat.SNP, report, chain, lists[0].read_bytes() if lists else b"")

    def parsed() -> dict[str, Any]:
        return {**from_report(report), **_endorsements(folder, evidence)}

    return Loaded(
        evidence=evidence,
        roots=ROOTS,
        policy=policy_for(parse(report), chain[-1], crl=bool(lists)),
        expected_claims=lambda claims: {**parsed(), **from_claims(claims)},
        parsed_claims=parsed,
    )


def certificate_chain(folder: Path) -> tuple[bytes, ...]:
    """DER of CEK, ASK and ARK, told apart by their names."""
    found = files.certificates(folder)
    keys = [name for name in found if name in _CEK_NAMES]
    roots = [name for name in found if name.startswith("ARK-")]
    others = sorted(found.keys() - {*keys, *roots})
    return tuple(found[name] for name in (*keys, *others, *roots))


def policy_for(report: UnverifiedSnpReport, ark: bytes, *, crl: bool) -> SnpPolicy:
    """The strict template for what ``report`` measures and for its chip, at its own privilege level."""
    product = next((root.product for root in ROOTS if root.sha256 == sha256(ark)), "Genoa")
    chips = [report.chip_id] if any(report.chip_id) else None
    policy = strict_snp_policy([report.measurement], products=[product], chip_ids=chips)
    policy = replace(policy, vmpl=report.vmpl)
    return policy if crl else replace(policy, revocation=Skip("no revocation list of its time came along"))


def from_report(report_bytes: bytes) -> dict[str, Any]:
    """What the parser reads, in the words of the provenance files."""
    report = parse(report_bytes)
    return {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "vmpl": report.vmpl,
        "policy": hex(_guest_policy(report)),
        "policy_debug": "debug" in report.guest_flags,
        "policy_smt": "smt" in report.guest_flags,
        "policy_migrate_ma": "migrate_ma" in report.guest_flags,
        "platform_info": hex(sum(1 << PLATFORM_FLAGS[flag] for flag in report.platform_flags)),
        "signing_key": report.signing_key.name,
        "author_key_en": report.author_key_enabled,
        "mask_chip_key": False,  # the parser lets no other report through
        "measurement": report.measurement.hex(),
        "report_data": report.report_data.hex(),
        "host_data": report.host_data.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "chip_id": report.chip_id.hex(),
        "cpuid_fms": list(report_bytes[_CPUID]) if report.version >= _FIRST_WITH_CPUID else None,
        "reported_tcb": _tcb(report.reported_tcb),
        "current_tcb": _tcb(report.current_tcb),
        "committed_tcb": _tcb(report.committed_tcb),
        "launch_tcb": _tcb(report.launch_tcb),
        "current_version": str(report.current_firmware),
        "committed_version": str(report.committed_firmware),
        "launch_mit_vector": report.launch_mitigations,
        "current_mit_vector": report.current_mitigations,
    }


def from_claims(claims: SnpClaims) -> dict[str, Any]:
    """What verified claims say, where a policy can see it."""
    platform, launch = claims.platform, claims.launch
    key = SigningKey.VCEK if platform.instance_key is InstanceKey.CHIP else SigningKey.VLEK
    return {
        "version": claims.report_version,
        "guest_svn": launch.guest_svn,
        "vmpl": claims.vmpl,
        "policy_debug": launch.debug,
        "policy_smt": "smt" in launch.guest_flags,
        "platform_info": hex(sum(1 << PLATFORM_FLAGS[flag] for flag in platform.flags)),
        "signing_key": key.name,
        "author_key_en": launch.author_key is not None,
        "measurement": claims.measurement.hex(),
        "report_data": claims.report_data.hex(),
        "host_data": claims.host_data.hex(),
        "id_key_digest": (launch.id_key or bytes(48)).hex(),
        "chip_id": claims.hardware_id.hex(),
        "reported_tcb": _tcb(platform.tcb.reported),
        "current_tcb": _tcb(platform.tcb.current),
        "committed_tcb": _tcb(platform.tcb.committed),
        "launch_tcb": _tcb(platform.tcb.launch),
        "current_version": str(platform.firmware.current),
        "committed_version": str(platform.firmware.committed),
        "launch_mit_vector": launch.mitigations,
        "current_mit_vector": platform.mitigations,
    }


def _guest_policy(report: UnverifiedSnpReport) -> int:
    flags = sum(1 << GUEST_FLAGS[flag] for flag in report.guest_flags)
    return flags | _MUST_BE_ONE | report.minimum_abi.major << 8 | report.minimum_abi.minor


def _tcb(tcb: Tcb) -> dict[str, int]:
    return dict(tcb.components)


def _endorsements(folder: Path, evidence: Evidence) -> dict[str, Any]:
    cek = read_certificate(evidence.certificates[0], "CEK")
    found: dict[str, Any] = {
        "cek": {
            "subject_cn": dict(cek.subject)[_COMMON_NAME],
            "not_before": write_time(cek.not_before),
            "not_after": write_time(cek.not_after),
            "serial": cek.serial,
        }
    }
    if (folder / "auxblob").is_file():
        table = parse_certificate_table((folder / "auxblob").read_bytes())
        found["auxblob_guids"] = [guid.hex() for guid in table]
    return found
