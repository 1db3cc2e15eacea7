"""One check for each knob of NVIDIA GPUs, as data. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType

from trusted.attestation.claims import CrlStatus
from trusted.attestation.gpu_claims import DebugState, GpuClaims
from trusted.attestation.policies.check import (
    ASK_MORE,
    Finding,
    KnobCheck,
    Subject,
    Verdict,
    assurance,
    finding,
    measurements,
    names,
)
from trusted.attestation.policies.nvidia import NvidiaPolicy, OcspRule, Presence, VersionRule, version_key
from trusted.attestation.policies.rules import Demand, Permission, Skip, write_time
from trusted.errors import Reason


def _claims(subject: Subject) -> GpuClaims:
    if not isinstance(subject.claims, GpuClaims):
        raise TypeError("GPU claims expected")
    return subject.claims


def _architectures(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    product = _claims(subject).product
    return finding(product in allowed, f"one of {names(allowed)}", product)


def _rims(subject: Subject, demand: Demand) -> Finding:
    claims = _claims(subject)
    actual = ", ".join(f"{rim.kind.value} {rim.version} ({rim.compared} met)" for rim in claims.rims) or "none"
    if demand is Demand.ANY:
        return finding(True, "any", actual)
    return finding(claims.has_rims(), "rim-driver and rim-vbios, all met", actual)


def _versions(subject: Subject, rule: VersionRule, version: str) -> Finding:
    if rule.allow is not None:
        return finding(version in rule.allow, f"one of {names(rule.allow)}", version)
    floor = rule.floor(_claims(subject).product)
    if floor is None:
        expected = f"a floor for {_claims(subject).product}"
        return Finding(expected, "none set", Verdict.FAIL, Reason.POLICY_UNSET)
    return finding(version_key(version) >= version_key(floor), f"at least {floor}", version)


def _driver_versions(subject: Subject, rule: VersionRule) -> Finding:
    return _versions(subject, rule, _claims(subject).driver_version)


def _vbios_versions(subject: Subject, rule: VersionRule) -> Finding:
    return _versions(subject, rule, _claims(subject).vbios_version)


def _modes(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    mode = _claims(subject).mode.value
    return finding(mode in allowed, f"one of {names(allowed)}", mode)


def _debug(subject: Subject, permission: Permission) -> Finding:
    """``unknown`` is not ``off``: a report names no developer mode, and only reference values can rule one out."""
    state = _claims(subject).debug
    if permission is Permission.ALLOW:
        return finding(True, "off or not", state.value)
    return finding(state is DebugState.OFF, "off, as both RIMs show", state.value)


def _ocsp(subject: Subject, rule: OcspRule) -> Finding:
    """Old answers are refused under either rule; none at all is accepted where the policy says so."""
    claim = _claims(subject).ocsp
    expected = f"the vendor's answers, at most {rule.max_age_days} days old"
    if claim.this_update is None and rule.presence is Presence.ALLOW_MISSING:
        return finding(True, f"{expected}, or none", claim.status.value)
    if claim.status is not CrlStatus.GOOD or claim.this_update is None:
        return Finding(expected, claim.status.value, Verdict.FAIL)
    oldest = subject.now - timedelta(days=rule.max_age_days)
    return finding(claim.this_update >= oldest, expected, f"issued {write_time(claim.this_update)}")


def _device_ids(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    hardware_id = _claims(subject).hardware_id
    return finding(hardware_id in allowed, f"one of {len(allowed)} GPUs", hardware_id.hex())


def _denied_device_ids(subject: Subject, denied: tuple[bytes, ...]) -> Finding:
    hardware_id = _claims(subject).hardware_id
    return finding(hardware_id not in denied, f"none of {len(denied)} GPUs", hardware_id.hex())


_SEND_RIMS = "fetch NVIDIA's reference values (RIMs) for this driver and this VBIOS, and attest with them"

# In the order of nvidia.KNOBS.
KNOB_CHECKS: Mapping[str, KnobCheck] = MappingProxyType(
    {
        "architectures": KnobCheck(_architectures, Reason.PRODUCT, "use a GPU of a listed architecture"),
        "measurements": KnobCheck(
            measurements, Reason.MEASUREMENT, "run the released driver and VBIOS, or have the members sign new values"
        ),
        "rims": KnobCheck(_rims, Reason.MEASUREMENT, _SEND_RIMS),
        "driver_versions": KnobCheck(_driver_versions, Reason.FIRMWARE_VERSION, "install a driver that is listed"),
        "vbios_versions": KnobCheck(_vbios_versions, Reason.FIRMWARE_VERSION, "update the GPU's VBIOS"),
        "modes": KnobCheck(
            _modes, Reason.PLATFORM_INFO, "have the host set the confidential mode that the charter names"
        ),
        "debug": KnobCheck(_debug, Reason.DEBUG, f"switch the developer mode off; then {_SEND_RIMS}"),
        "ocsp": KnobCheck(_ocsp, Reason.CRL_STALE, "fetch the vendor's current OCSP answers and attest with them"),
        "device_ids": KnobCheck(
            _device_ids, Reason.HARDWARE_NOT_ALLOWED, "have the members list the GPU in the charter, if they know it"
        ),
        "denied_device_ids": KnobCheck(_denied_device_ids, Reason.HARDWARE_NOT_ALLOWED, "use another GPU"),
        "assurance": KnobCheck(assurance, Reason.ASSURANCE, ASK_MORE),
    }
)


def skipped(subject: Subject, knob: str) -> Finding | None:
    """The one skip that holds under a condition: without reference values, nothing says what runs on the GPU."""
    if knob != "measurements" or _claims(subject).has_rims():
        return None
    return Finding("a list of measurements, or both RIMs", "neither", Verdict.FAIL)


def expiries(claims: GpuClaims, policy: NvidiaPolicy) -> Iterator[datetime]:
    """When the vendor's word on revocation runs out, for its own sake and by the policy."""
    answers = claims.ocsp
    if isinstance(policy.ocsp, Skip) or answers.this_update is None or answers.next_update is None:
        return
    yield answers.next_update
    yield answers.this_update + timedelta(days=policy.ocsp.max_age_days)
