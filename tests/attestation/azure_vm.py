"""An Azure confidential VM in the test's hands: a software chip below, a vTPM key above, and the report between."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from softtee.chip import Chip, SoftwareRoot
from tests.attestation.conftest import MEASUREMENT
from tests.attestation.quotes import Quote, sign
from trusted.attestation.binding import short_nonce
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.tpm import Scheme
from trusted.attestation.roots import TrustRoot
from trusted.wire import sha256

CONFIGURATION = {
    "console-enabled": False,
    "secure-boot": True,
    "tpm-enabled": True,
    "tpm-persisted": True,
    "vmUniqueId": "00000000-0000-4000-8000-000000000001",
}


def azure_root(root: SoftwareRoot) -> TrustRoot:
    """The software root as Azure's evidence is verified under it."""
    return TrustRoot(EvidenceFormat.AZURE_VTPM, root.trust_root.product, root.trust_root.sha256)


def jwk(key: rsa.RSAPublicKey, kid: str, **changes: Any) -> dict[str, Any]:
    """A public key as JSON."""
    modulus = base64.urlsafe_b64encode(key.public_numbers().n.to_bytes(key.key_size // 8, "big")).rstrip(b"=")
    return {"kid": kid, "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": modulus.decode(), **changes}


def hcl_report(hardware: bytes, variable_data: bytes, **changes: int) -> bytes:
    """The report in its index of 2600 bytes; ``changes``: any number of the layout by its name."""
    data_size = 20 + len(variable_data)
    numbers = {"version": 2, "size": 1216 + data_size, "request": 2, "status": 0, "data_size": data_size,
               "data_version": 1, "type": 2, "hash": 1, "variable_size": len(variable_data)} | changes  # fmt: skip
    u32 = {name: value.to_bytes(4, "little") for name, value in numbers.items()}
    head = b"HCLA" + u32["version"] + u32["size"] + u32["request"] + u32["status"] + bytes(12)
    head += hardware.ljust(1184, b"\x00")
    head += u32["data_size"] + u32["data_version"] + u32["type"] + u32["hash"] + u32["variable_size"]
    return (head + variable_data).ljust(2600, b"\x00")


@dataclass(frozen=True)
class AzureVm:
    """One machine. ``report_fields``: what its SNP reports say differently."""

    chip: Chip
    key: rsa.RSAPrivateKey
    configuration: dict[str, Any] = field(default_factory=lambda: dict(CONFIGURATION))

    def variable_data(self, user_data: bytes, **changes: Any) -> bytes:
        """The JSON that the hardware report is over."""
        value = {
            "keys": [jwk(self.key.public_key(), "HCLAkPub")],
            "vm-configuration": self.configuration,
            "user-data": user_data.hex().upper(),
        }
        return json.dumps({**value, **changes}).encode()

    def hardware_report(self, variable_data: bytes, **changes: Any) -> bytes:
        """The SNP report over ``variable_data``."""
        over = changes.pop("report_data", sha256(variable_data) + bytes(32))
        measurement = changes.pop("measurement", MEASUREMENT)
        return self.chip.attest(report_data=over, measurement=measurement, host_data=bytes(32), **changes).report

    def report(self, user_data: bytes = bytes(64)) -> bytes:
        """The whole report, as the index holds it."""
        variable_data = self.variable_data(user_data)
        return hcl_report(self.hardware_report(variable_data), variable_data)

    def evidence(
        self, report_data: bytes, *, quote: Quote | None = None, report: bytes | None = None, **parts: bytes
    ) -> Evidence:
        """Evidence over ``report_data``, in the hardware report and in the quote."""
        quote = quote or Quote(extra_data=short_nonce(report_data))
        message = quote.encode()
        signature = sign(self.key, Scheme.RSASSA_SHA256, message)
        found = {"pcrs": b"".join(quote.values), "quote": message, "signature": signature}
        found |= {name.replace("_", "-"): content for name, content in parts.items()}
        whole = self.report(report_data) if report is None else report
        pattern = self.chip.attest(report_data=bytes(64), measurement=MEASUREMENT, host_data=bytes(32))
        chain, crl = pattern.certificates, pattern.crl
        return Evidence(EvidenceFormat.AZURE_VTPM, whole, chain, crl, tuple(sorted(found.items())))
