"""A policy to start a charter from, for each platform, with what must be filled in. Trust zone: the member's machine.

What a member must say itself stands as ``REPLACE-…`` in the JSON, so that a template which nobody has filled in does
not read: forgetting a value can never admit anybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from trusted.attestation.device_policy import ONLY_DEVICES
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.policies.azure_vtpm import strict_azure_vtpm_policy
from trusted.attestation.policies.cca import ComponentReference, strict_cca_policy
from trusted.attestation.policies.gcp_cs import strict_gcp_cs_policy
from trusted.attestation.policies.knob import PlatformPolicy
from trusted.attestation.policies.nitro import strict_nitro_policy
from trusted.attestation.policies.nvidia import strict_nvidia_policy
from trusted.attestation.policies.sgx import strict_sgx_policy
from trusted.attestation.policies.snp import strict_snp_policy
from trusted.attestation.policies.tdx import strict_tdx_policy
from trusted.attestation.policies.tpm import strict_tpm_policy
from trusted.wire import Json

# A value that no digest has: every byte the same. It is looked for in the finished JSON.
_FILL = 0xEE
_MARK = re.compile(r"(?:ee){6,}")
_PROJECT = "replace-with-your-project"
# The PCRs of a measured boot: firmware, its settings, boot loader and its settings, secure boot, and the UKI (11).
_BOOT_PCRS = (0, 1, 2, 3, 4, 5, 7, 11)


def _fill(size: int) -> bytes:
    return bytes([_FILL]) * size


_TEMPLATES: Mapping[EvidenceFormat, Callable[[], PlatformPolicy]] = MappingProxyType(
    {
        EvidenceFormat.SNP: lambda: strict_snp_policy([_fill(48)]),
        EvidenceFormat.TDX: lambda: strict_tdx_policy([_fill(48)], {1: [_fill(48)], 2: [_fill(48)]}),
        EvidenceFormat.SGX: lambda: strict_sgx_policy([_fill(32)]),
        EvidenceFormat.NITRO: lambda: strict_nitro_policy([_fill(48)]),
        EvidenceFormat.CCA: lambda: strict_cca_policy(
            [_fill(32)], components=[ComponentReference(signer=_fill(32), measurement=_fill(32))]
        ),
        EvidenceFormat.NVIDIA_GPU: strict_nvidia_policy,
        EvidenceFormat.TPM: lambda: strict_tpm_policy([_fill(32)], selection=_BOOT_PCRS, keys=[_fill(32)]),
        EvidenceFormat.AZURE_VTPM: lambda: strict_azure_vtpm_policy(
            [_fill(32)], selection=_BOOT_PCRS, paravisors=[_fill(48)]
        ),
        EvidenceFormat.GCP_CS: lambda: strict_gcp_cs_policy([_fill(32)], projects=[_PROJECT]),
    }
)


def template_of(format: EvidenceFormat, *, as_device: bool = False) -> dict[str, Json]:
    """The part of a role's policy for one platform, to be completed: ``{"snp": {…}}``, or under ``devices``.

    What is never anything but a device is one without ``as_device`` too.
    """
    knobs = {name: _marked(value) for name, value in _TEMPLATES[format]().to_json().items()}
    if as_device or format in ONLY_DEVICES:
        return {"devices": {format.value: {"count": {"min": 1, "max": 1}, **knobs}}}
    return {format.value: knobs}


def open_questions(value: Json, path: str = "") -> list[str]:
    """Where a template still has to be completed."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in open_questions(item, f"{path}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [found for place, item in enumerate(value) for found in open_questions(item, f"{path}[{place}]")]
    return [path] if isinstance(value, str) and "REPLACE-" in value else []


def _marked(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _marked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item) for item in value]
    if not isinstance(value, str):
        return value
    if value == _PROJECT:
        return "REPLACE-WITH-YOUR-PROJECT"
    return _MARK.sub(lambda found: f"REPLACE-WITH-{len(found[0]) // 2}-BYTES-OF-HEX", value)
