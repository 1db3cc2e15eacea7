"""TDX and SGX vectors: ``quote.bin`` and ``collateral.json``, and an event log where one came along."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from cryptography import x509

from tests.attestation.from_vector import files
from trusted.attestation.anchors import INTEL_ROOT
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.dcap import EnclaveBody, TdBody, TdBodyKind, UnverifiedQuote
from trusted.attestation.intel_claims import IntelPlatform, SgxType
from trusted.attestation.policies.rules import Skip, write_time
from trusted.attestation.roots import TrustRoot

_BODIES = {TdBodyKind.TD_1_0: "TdReport10", TdBodyKind.TD_1_5: "TdReport15"}
_TEE_TYPES = {EvidenceFormat.TDX: "0x81", EvidenceFormat.SGX: "0x0"}
OLD = Skip("the vector is as old as it is")


def evidence_of(format: EvidenceFormat, folder: Path) -> Evidence:
    """The files of one vector as they would travel."""
    parts = [("collateral", files.one(folder, "collateral.json", "*collateral*.json").read_bytes())]
    parts += [("event-log", log) for log in list(files.event_logs(folder).values())[:1]]
    quote = files.one(folder, "quote.bin", "*quote*.bin", "*quote*.dat").read_bytes()
    return Evidence(format, without_trailer(quote), (), b"", tuple(parts))


def without_trailer(quote: bytes) -> bytes:
    """``quote`` without what a project has appended to its sample (``extra bytes(only for testing purpose)``).

    The parser refuses such bytes before anything that a case is about. Zeros are the platform's own and stay.
    """
    version, body_size = struct.unpack_from("<H", quote)[0], struct.unpack_from("<I", quote, 50)[0]
    at = {3: 432, 4: 632}.get(version, 54 + body_size)
    end = at + 4 + struct.unpack_from("<I", quote, at)[0]
    return quote[:end] if any(quote[end:]) else quote


def root_of(format: EvidenceFormat) -> TrustRoot:
    """Intel's root for one format."""
    return TrustRoot(format, format.value.upper(), INTEL_ROOT)


def from_platform(format: EvidenceFormat, platform: IntelPlatform) -> dict[str, Any]:
    """What verified claims say of the machine, in the words of the provenance files."""
    pck, dates = platform.pck, platform.collateral
    return {
        "version": platform.header.version,
        "tee_type": _TEE_TYPES[format],
        "fmspc": pck.fmspc.hex(),
        "ca": pck.authority,
        "pck": {
            "ppid": pck.ppid.hex(),
            "cpu_svn": pck.cpu_svn.hex(),
            "pce_svn": pck.pce_svn,
            "sgx_type": tuple(SgxType).index(pck.sgx_type),
            "platform_instance_id": None if pck.platform_instance_id is None else pck.platform_instance_id.hex(),
        },
        "collateral": {
            "tcb_issue": write_time(dates.tcb_issued),
            "tcb_next": write_time(dates.tcb_next),
            "tcb_eval": platform.tcb.evaluation,
            "qe_issue": write_time(dates.qe_issued),
            "qe_next": write_time(dates.qe_next),
        },
    }


def from_parser(format: EvidenceFormat, quote: UnverifiedQuote, collateral: bytes) -> dict[str, Any]:
    """The same from what nobody has verified: the quote's header, its PCK, and the collateral's own words."""
    import dcap_qvl

    outer = json.loads(collateral)
    tcb, qe = json.loads(outer["tcb_info"]), json.loads(outer["qe_identity"])
    leaf = x509.load_der_x509_certificate(quote.chain[0])
    parsed = dcap_qvl.Quote.parse(quote.content)
    pck = parsed.pck_extension()
    assert pck is not None
    instance = pck.platform_instance_id
    return {
        "version": quote.header.version,
        "tee_type": _TEE_TYPES[format],
        "fmspc": pck.fmspc.hex(),
        "ca": "platform" if "Platform CA" in leaf.issuer.rfc4514_string() else "processor",
        "pck": {
            "ppid": pck.ppid.hex(),
            "cpu_svn": pck.cpu_svn.hex(),
            "pce_svn": pck.pce_svn,
            "sgx_type": pck.sgx_type,
            "platform_instance_id": None if instance is None else instance.hex(),
        },
        "collateral": {
            "tcb_issue": tcb["issueDate"],
            "tcb_next": tcb["nextUpdate"],
            "tcb_eval": tcb["tcbEvaluationDataNumber"],
            "qe_issue": qe["issueDate"],
            "qe_next": qe["nextUpdate"],
        },
    }


def from_td(td: TdBody) -> dict[str, Any]:
    """What a TD's report says."""
    found: dict[str, Any] = {
        "report_data": td.report_data.hex(),
        "mr_td": td.mr_td.hex(),
        "mr_seam": td.mr_seam.hex(),
        "mr_signer_seam": td.mr_signer_seam.hex(),
        "seam_attributes": td.seam_attributes.hex(),
        "td_attributes": td.td_attributes.hex(),
        "xfam": td.xfam.hex(),
        "tee_tcb_svn": td.tee_tcb_svn.hex(),
        "mr_config_id": td.mr_config_id.hex(),
        "mr_owner": td.mr_owner.hex(),
        "mr_owner_config": td.mr_owner_config.hex(),
        "rtmr": [rtmr.hex() for rtmr in td.rtmrs],
        "body": _BODIES[td.kind],
    }
    if td.mr_service_td is not None and td.tee_tcb_svn2 is not None:
        found |= {"mr_service_td": td.mr_service_td.hex(), "tee_tcb_svn2": td.tee_tcb_svn2.hex()}
    return found


def from_enclave(enclave: EnclaveBody) -> dict[str, Any]:
    """What an enclave's report says."""
    return {
        "report_data": enclave.report_data.hex(),
        "mr_enclave": enclave.mr_enclave.hex(),
        "mr_signer": enclave.mr_signer.hex(),
        "attributes": enclave.attributes_raw.hex(),
        "isv_prod_id": enclave.isv_prod_id,
        "isv_svn": enclave.isv_svn,
        "config_id": enclave.config_id.hex(),
        "config_svn": enclave.config_svn,
        "isv_ext_prod_id": enclave.isv_ext_prod_id.hex(),
        "isv_family_id": enclave.isv_family_id.hex(),
        "misc_select": enclave.misc_select,
        "cpu_svn": enclave.cpu_svn.hex(),
    }
