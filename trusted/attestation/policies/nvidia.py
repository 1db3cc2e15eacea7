"""What GPU evidence must say to be good enough (docs/protocol.md §3.3). Trust zone: every TEE.

``KNOBS`` is the table of its knobs; what each one means for claims stands in ``nvidia_checks.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType
from typing import ClassVar

from trusted.attestation.gpu_claims import GpuMode
from trusted.attestation.policies import rules
from trusted.attestation.policies.knob import ASSURANCE, Knob, KnobbedPolicy, listed, octets_list, value_of
from trusted.attestation.policies.rules import Demand, Permission, ReferenceValue, Skip
from trusted.attestation.roots import Assurance
from trusted.errors import Reason, WireError
from trusted.wire import Fields, Json

ARCHITECTURES = ("Hopper", "Blackwell")
DEVICE_ID_BYTES = 32
_MAX_VERSIONS = 64
_VERSION = re.compile(r"[0-9A-F]{1,6}(\.[0-9A-F]{1,6}){1,7}")


@unique
class Presence(Enum):
    """Whether something must come along."""

    REQUIRE = "require"
    ALLOW_MISSING = "allow-missing"


@dataclass(frozen=True, slots=True)
class OcspRule:
    """Whether the vendor's word on revocation must come along, and how old it may be."""

    presence: Presence
    max_age_days: int


@dataclass(frozen=True, slots=True)
class VersionRule:
    """The versions that may run: exactly these, or at least the one of the architecture. The other is None."""

    allow: tuple[str, ...] | None = None
    minimum: tuple[tuple[str, str], ...] | None = None

    def floor(self, product: str) -> str | None:
        """The lowest version for ``product``, if it has one."""
        return dict(self.minimum or ()).get(product)


def version_key(version: str) -> tuple[int, ...]:
    """Versions in their order. Driver and VBIOS versions are dotted numbers of a fixed width for each part, so reading
    the digits of a driver's as hexadecimal too keeps their order."""
    return tuple(int(part, 16) for part in version.split("."))


def _read_versions(fields: Fields, key: str) -> VersionRule:
    """``{"allow": [version]}`` or ``{"minimum": {architecture: version}}``."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        if entry.has("allow"):
            allowed = entry.items("allow", max_items=_MAX_VERSIONS)
            return VersionRule(allow=tuple(_version(item, entry.path("allow")) for item in allowed))
        floors = entry.mapping("minimum")
        if not floors or not set(floors) <= set(ARCHITECTURES):
            raise WireError(Reason.MALFORMED, f"{entry.path('minimum')}: one of {', '.join(ARCHITECTURES)} expected")
        return VersionRule(
            minimum=tuple((name, _version(floors[name], entry.path("minimum"))) for name in sorted(floors))
        )


def _version(value: object, path: str) -> str:
    if not isinstance(value, str) or not _VERSION.fullmatch(value):
        raise WireError(Reason.MALFORMED, f"{path}: versions such as 570.86.10 or 96.00.AF.00.01 expected")
    return value


def _write_versions(rule: VersionRule) -> Json:
    if rule.allow is not None:
        return {"allow": list(rule.allow)}
    return {"minimum": dict(rule.minimum or ())}


def _read_ocsp(fields: Fields, key: str) -> OcspRule:
    """``{"presence": "require" or "allow-missing", "max_age_days": 1 to 366}``."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        presence = Presence(entry.choice("presence", [item.value for item in Presence]))
        return OcspRule(presence, entry.integer("max_age_days", low=1, high=366))


def _write_ocsp(rule: OcspRule) -> Json:
    return {"presence": rule.presence.value, "max_age_days": rule.max_age_days}


_DEVICES = octets_list(DEVICE_ID_BYTES)

# name, meaning, how the value reads, how it is written.
KNOBS: tuple[Knob, ...] = (
    Knob(
        "architectures",
        "GPU generations that may take part: [Hopper, Blackwell]",
        lambda fields, key: rules.read_names(fields, key, ARCHITECTURES),
        listed,
    ),
    Knob(
        "measurements",
        "SHA-384 over all measurement blocks: [{value, until}]; may be skipped where both RIMs match",
        rules.read_measurements,
        rules.write_measurements,
    ),
    Knob(
        "rims",
        "require NVIDIA's signed reference values for driver and VBIOS, all met; or any",
        rules.read_demand,
        value_of,
    ),
    Knob(
        "driver_versions", "{allow: [version]} or {minimum: {architecture: version}}", _read_versions, _write_versions
    ),
    Knob("vbios_versions", "{allow: [version]} or {minimum: {architecture: version}}", _read_versions, _write_versions),
    Knob(
        "modes",
        "confidential modes: [SPT, MPT, PPCIE, unstated]; drivers before 580 do not state theirs",
        lambda fields, key: rules.read_names(fields, key, [mode.value for mode in GpuMode]),
        listed,
    ),
    Knob(
        "debug",
        "refuse GPUs that may be looked into; only both RIMs can rule out a developer mode; or allow",
        rules.read_permission,
        value_of,
    ),
    Knob(
        "ocsp",
        "the vendor's word on revocation: {presence: require or allow-missing, max_age_days}",
        _read_ocsp,
        _write_ocsp,
    ),
    Knob("device_ids", "the only GPUs that may take part, 32 bytes each", _DEVICES, rules.write_octets),
    Knob("denied_device_ids", "GPUs that may not take part, 32 bytes each", _DEVICES, rules.write_octets),
    ASSURANCE,
)


@dataclass(frozen=True, slots=True)
class NvidiaPolicy(KnobbedPolicy):
    """What GPU evidence must say. The knobs, one field each, are explained in :data:`KNOBS`."""

    KNOBS: ClassVar[tuple[Knob, ...]] = KNOBS

    architectures: tuple[str, ...] | Skip
    measurements: tuple[ReferenceValue, ...] | Skip
    rims: Demand | Skip
    driver_versions: VersionRule | Skip
    vbios_versions: VersionRule | Skip
    modes: tuple[str, ...] | Skip
    debug: Permission | Skip
    ocsp: OcspRule | Skip
    device_ids: tuple[bytes, ...] | Skip
    denied_device_ids: tuple[bytes, ...] | Skip
    assurance: Assurance


# The oldest drivers with a confidential mode out of preview that real evidence of 2024 and 2025 shows.
_DRIVER_FLOORS: Mapping[str, str] = MappingProxyType({"Hopper": "550.90.07", "Blackwell": "575.32"})


def strict_nvidia_policy(
    measurements: Sequence[bytes | ReferenceValue] = (),
    *,
    architectures: Sequence[str] = ARCHITECTURES,
    assurance: Assurance | str = Assurance.HARDWARE,
    device_ids: Sequence[bytes] | None = None,
) -> NvidiaPolicy:
    """A policy to start a charter from: NVIDIA's reference values for driver and VBIOS, and no revoked device.

    Args:
        measurements: what else must be, 48 bytes each; empty leaves that to the reference values.
        architectures: which may take part.
        assurance: ``possession``, ``hardware`` or ``none``.
        device_ids: the only GPUs that may take part, 32 bytes each; None allows every one.

    Raises:
        WireError: a value that a policy cannot hold.
    """
    references = tuple(item if isinstance(item, ReferenceValue) else ReferenceValue(item) for item in measurements)
    floors = tuple((name, _DRIVER_FLOORS[name]) for name in sorted(architectures) if name in _DRIVER_FLOORS)
    policy = NvidiaPolicy(
        architectures=tuple(architectures),
        measurements=references or Skip("NVIDIA's reference values of driver and VBIOS stand in for them"),
        rims=Demand.REQUIRE,
        driver_versions=VersionRule(minimum=floors),
        vbios_versions=Skip("boards number their VBIOS apart; the reference values are of exactly the running one"),
        modes=(GpuMode.SPT.value,),
        debug=Permission.REFUSE,
        ocsp=OcspRule(Presence.REQUIRE, max_age_days=7),
        device_ids=Skip("every GPU of the architectures may take part") if device_ids is None else tuple(device_ids),
        denied_device_ids=(),
        assurance=Assurance(assurance),
    )
    return NvidiaPolicy.from_json(policy.to_json())
