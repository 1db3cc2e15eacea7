"""The report that Azure's paravisor (HCL) keeps in the vTPM, bytes to fields. Trust zone: every TEE.

It holds a hardware report over SHA-256 of JSON that names the vTPM's attestation key. Nothing signs what stands around
the two, so every byte of it is fixed or follows from the rest. Source: attestation.md 5.4; tee.md section 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique
from typing import Any

from trusted.attestation.formats import foreign_json
from trusted.attestation.formats.cursor import Cursor
from trusted.attestation.formats.jwk import UnverifiedRsaKey, parse_rsa
from trusted.attestation.formats.snp import REPORT_BYTES
from trusted.errors import AttestationError, Reason

MAX_HCL_BYTES = 8 << 10
TDREPORT_BYTES = 1024
_MAGIC = int.from_bytes(b"HCLA", "little")
_VERSIONS = (1, 2)
_REQUEST = 2
_DATA_VERSION = 1
_SHA256 = 1
_HEADER_BYTES = 32
_FIELD_BYTES = REPORT_BYTES  # whatever the hardware
_DATA_BYTES = 20
_USER_DATA_BYTES = 64
_AK = "HCLAkPub"
_MAX_KEYS = 8


@unique
class ReportType(Enum):
    """Whose hardware report it holds."""

    SNP = 2
    TDX = 4


@dataclass(frozen=True, slots=True)
class VmConfiguration:
    """What the paravisor says about the machine; None where it does not say."""

    vm_id: str
    secure_boot: bool
    console_enabled: bool
    tpm_enabled: bool
    tpm_persisted: bool | None
    root_cert_thumbprint: str | None


@dataclass(frozen=True, slots=True)
class UnverifiedHclReport:
    """A well-formed report that anybody may have written.

    Attributes:
        report_type: whose ``hardware_report`` it is.
        hardware_report: an SNP report (1184 bytes) or a TDREPORT (1024).
        variable_data: the exact JSON whose digest the hardware report carries.
        ak: the key that signs quotes, by the JSON.
        user_data: 64 bytes that the guest had written when the hardware report was made; zeros when it had not.
    """

    report_type: ReportType
    hardware_report: bytes
    variable_data: bytes
    ak: UnverifiedRsaKey
    configuration: VmConfiguration
    user_data: bytes


def parse(report: bytes) -> UnverifiedHclReport:
    """The fields of ``report``: all of an NV index, so zeros may follow what the report says is its end.

    Raises:
        AttestationError: EVIDENCE_FORMAT, RESERVED_NOT_ZERO.
    """
    cursor = Cursor(report, "hcl", "little")
    if len(report) > MAX_HCL_BYTES:
        raise cursor.error(f"size: at most {MAX_HCL_BYTES} bytes expected")
    size = _header(cursor)
    field = cursor.octets(_FIELD_BYTES, "hardware report")
    report_type, variable_data = _data(cursor, size)
    _zeros(cursor.octets(cursor.left, "padding"), "padding")
    hardware = field[: REPORT_BYTES if report_type is ReportType.SNP else TDREPORT_BYTES]
    _zeros(field[len(hardware) :], "hardware report")
    value = foreign_json.parse_object(variable_data, "hcl.variable data", max_bytes=MAX_HCL_BYTES)
    return UnverifiedHclReport(
        report_type=report_type,
        hardware_report=hardware,
        variable_data=variable_data,
        ak=_attestation_key(value),
        configuration=_configuration(foreign_json.field(value, "vm-configuration", dict, "hcl")),
        user_data=_user_data(foreign_json.field(value, "user-data", str, "hcl")),
    )


def _header(cursor: Cursor) -> int:
    """The size of the whole report, which the header tells."""
    cursor.expect(4, _MAGIC, "signature")
    if cursor.number(4, "version") not in _VERSIONS:
        raise cursor.error("version: 1 or 2 expected")
    size = cursor.number(4, "report size")
    cursor.expect(4, _REQUEST, "request type")
    cursor.expect(4, 0, "status")
    _zeros(cursor.octets(12, "reserved"), "reserved")
    return size


def _data(cursor: Cursor, report_size: int) -> tuple[ReportType, bytes]:
    data_size = cursor.number(4, "data size")
    cursor.expect(4, _DATA_VERSION, "data version")
    kind = cursor.number(4, "report type")
    if kind not in {item.value for item in ReportType}:
        raise cursor.error("report type: SNP (2) or TDX (4) expected")
    cursor.expect(4, _SHA256, "hash type")
    variable_data = cursor.sized(4, "variable data", most=MAX_HCL_BYTES)
    expected = _DATA_BYTES + len(variable_data)
    if data_size != expected or report_size != _HEADER_BYTES + _FIELD_BYTES + expected:
        raise cursor.error("sizes: those that follow from the variable data expected")
    return ReportType(kind), variable_data


def _zeros(content: bytes, field: str) -> None:
    if any(content):
        raise AttestationError(Reason.RESERVED_NOT_ZERO, f"hcl.{field}: zeros expected")


def _attestation_key(value: Mapping[str, Any]) -> UnverifiedRsaKey:
    keys = foreign_json.field(value, "keys", list, "hcl")
    if len(keys) > _MAX_KEYS or not all(isinstance(key, dict) for key in keys):
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"hcl.keys: at most {_MAX_KEYS} objects expected")
    named = [key for key in keys if key.get("kid") == _AK]
    if len(named) != 1 or named[0].get("key_ops") != ["sign"]:
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"hcl.keys: one key {_AK}, that only signs, expected")
    return parse_rsa(named[0], f"hcl.{_AK}")


def _configuration(value: Mapping[str, Any]) -> VmConfiguration:
    name = "hcl.vm-configuration"
    return VmConfiguration(
        vm_id=foreign_json.field(value, "vmUniqueId", str, name),
        secure_boot=foreign_json.field(value, "secure-boot", bool, name),
        console_enabled=foreign_json.field(value, "console-enabled", bool, name),
        tpm_enabled=foreign_json.field(value, "tpm-enabled", bool, name),
        tpm_persisted=foreign_json.field(value, "tpm-persisted", bool, name) if "tpm-persisted" in value else None,
        root_cert_thumbprint=(
            foreign_json.field(value, "root-cert-thumbprint", str, name) if "root-cert-thumbprint" in value else None
        ),
    )


def _user_data(text: str) -> bytes:
    try:
        content = bytes.fromhex(text)
    except ValueError:
        content = b""
    if len(content) != _USER_DATA_BYTES or len(text) != 2 * _USER_DATA_BYTES:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "hcl.user-data: 64 bytes of hexadecimal expected")
    return content
