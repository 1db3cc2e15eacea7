"""Which devices a TEE must hold besides itself, and what each must say (docs/protocol.md §3.3). Trust zone: every TEE.

A role whose policy has no ``devices`` holds none: one that is offered unasked is refused, for nobody would look at it.
A TPM may stand beside a TEE, or alone in its place; the policy names it in one of the two, never in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.platforms import PLATFORMS
from trusted.attestation.policies.knob import PlatformPolicy
from trusted.errors import Reason, WireError
from trusted.wire import Fields, Json

DEVICE_FORMATS = frozenset({EvidenceFormat.NVIDIA_GPU, EvidenceFormat.TPM})
# A GPU never stands for the TEE itself: it measures no enclave, and knows no host data.
ONLY_DEVICES = frozenset({EvidenceFormat.NVIDIA_GPU})
MAX_DEVICES = 16
# A machine has one TPM. One TPM can hold many attestation keys, so two quotes would not prove two of them.
_MOST: Mapping[EvidenceFormat, int] = MappingProxyType({EvidenceFormat.NVIDIA_GPU: MAX_DEVICES, EvidenceFormat.TPM: 1})


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """How many devices of one format a TEE must hold, and what each of them must say."""

    minimum: int
    maximum: int
    policy: PlatformPolicy

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum <= MAX_DEVICES or not self.maximum:
            raise WireError(Reason.MALFORMED, f"devices.count: 0 <= min <= max, and max 1 to {MAX_DEVICES}, expected")


DeviceRules = Mapping[EvidenceFormat, DeviceRule]
NO_DEVICES: DeviceRules = MappingProxyType({})


def read_devices(value: Any, name: str) -> DeviceRules:
    """The rules in the JSON object ``value``, ``{format: {"count": {"min", "max"}, knob: value}}``.

    Raises:
        WireError: no format, one that is no device's, or a rule that does not read.
    """
    rules: dict[EvidenceFormat, DeviceRule] = {}
    with Fields(value, name) as fields:
        for format in sorted(DEVICE_FORMATS, key=lambda format: format.value):
            if fields.has(format.value):
                rules[format] = _read_rule(fields.mapping(format.value), format, fields.path(format.value))
    if not rules:
        raise WireError(Reason.POLICY_UNSET, f"{name}: at least one format expected; leave it out for no devices")
    return MappingProxyType(rules)


def _read_rule(value: Mapping[str, Any], format: EvidenceFormat, name: str) -> DeviceRule:
    entry = dict(value)
    with Fields({"count": entry.pop("count")} if "count" in entry else {}, name) as fields:
        count = fields.mapping("count")
    with Fields(count, f"{name}.count") as fields:
        minimum, maximum = (fields.integer(key, low=0, high=_MOST[format]) for key in ("min", "max"))
    return DeviceRule(minimum, maximum, PLATFORMS[format].policy.from_json(entry, name))


def write_devices(rules: DeviceRules) -> dict[str, Json]:
    """The JSON form of :func:`read_devices`."""
    return {
        format.value: {"count": {"min": rule.minimum, "max": rule.maximum}, **rule.policy.to_json()}
        for format, rule in rules.items()
    }
