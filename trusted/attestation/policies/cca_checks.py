"""One check for each knob of Arm CCA, as data. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trusted.attestation.cca_claims import CcaClaims
from trusted.attestation.formats.cca import Lifecycle
from trusted.attestation.policies.cca import ComponentReference, RegisterRule
from trusted.attestation.policies.check import (
    ASK_PROVIDER,
    Finding,
    KnobCheck,
    Subject,
    assurance,
    finding,
    measurements,
    names,
    permitted,
)
from trusted.attestation.policies.rules import Permission
from trusted.errors import Reason


def _claims(subject: Subject) -> CcaClaims:
    if not isinstance(subject.claims, CcaClaims):
        raise TypeError("CCA claims expected")
    return subject.claims


def _registers(subject: Subject, rule: RegisterRule) -> Finding:
    values = {f"rem{index}": value for index, value in enumerate(_claims(subject).extensible_measurements)}
    wrong = [name for name, allowed in rule.allowed if values[name] not in allowed]
    expected = "; ".join(f"{name}: one of {len(allowed)}" for name, allowed in rule.allowed)
    shown = [values[name].hex() for name in wrong]
    return finding(not wrong, expected, "; ".join(map(" ".join, zip(wrong, shown, strict=True))) or "as expected")


def _profiles(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    profile = _claims(subject).platform.profile.value
    return finding(profile in allowed, f"one of {names(allowed)}", profile)


def _lifecycle(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    state, _ = _claims(subject).platform.lifecycle
    return finding(state.name.lower() in allowed, f"one of {names(allowed)}", state.name.lower())


def _debug(subject: Subject, permission: Permission) -> Finding:
    state, value = _claims(subject).platform.lifecycle
    actual = f"{state.name.lower()} ({value:#06x})"
    return permitted(permission, state is not Lifecycle.SECURED, "secured (0x3000 to 0x30ff)", actual)


def _components(subject: Subject, allowed: tuple[ComponentReference, ...]) -> Finding:
    found = _claims(subject).platform.components
    unknown = [item for item in found if ComponentReference(item.signer, item.measurement) not in allowed]
    shown = ", ".join(f"{item.kind or 'unnamed'} {item.measurement.hex()}" for item in unknown)
    return finding(not unknown, f"each one of {len(allowed)}", shown or f"{len(found)} components, all known")


def _configs(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    config = _claims(subject).platform.config
    return finding(config in allowed, f"one of {len(allowed)} configurations", config.hex())


def _implementations(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    implementation = _claims(subject).platform.implementation_id
    return finding(implementation in allowed, f"one of {len(allowed)} implementations", implementation.hex())


def _instances(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    instance = _claims(subject).hardware_id
    return finding(instance in allowed, f"one of {len(allowed)} platforms", instance.hex())


def _denied_instances(subject: Subject, denied: tuple[bytes, ...]) -> Finding:
    instance = _claims(subject).hardware_id
    return finding(instance not in denied, f"none of {len(denied)} platforms", instance.hex())


_SECURE_IT = "bring the platform back into its secured state, or use another machine"
_UPDATE_FIRMWARE = "update the platform's firmware, or have the members list what runs there"
_LIST_IT = "have the members list the platform, if they know whose it is"

# In the order of policy.KNOBS.
KNOB_CHECKS: Mapping[str, KnobCheck] = MappingProxyType(
    {
        "measurements": KnobCheck(
            measurements, Reason.MEASUREMENT, "run the released image, or have the members sign a new measurement"
        ),
        "registers": KnobCheck(
            _registers, Reason.RUNTIME_MEASUREMENT, "start the realm again; something extended what it should not"
        ),
        "profiles": KnobCheck(_profiles, Reason.REPORT_VERSION, _UPDATE_FIRMWARE),
        "debug": KnobCheck(_debug, Reason.DEBUG, _SECURE_IT),
        "lifecycle": KnobCheck(_lifecycle, Reason.PLATFORM_INFO, _SECURE_IT),
        "components": KnobCheck(_components, Reason.FIRMWARE_VERSION, _UPDATE_FIRMWARE),
        "configs": KnobCheck(_configs, Reason.PLATFORM_INFO, "use a platform that is set up as the charter says"),
        "implementations": KnobCheck(_implementations, Reason.HARDWARE_NOT_ALLOWED, _LIST_IT),
        "instances": KnobCheck(_instances, Reason.HARDWARE_NOT_ALLOWED, _LIST_IT),
        "denied_instances": KnobCheck(_denied_instances, Reason.HARDWARE_NOT_ALLOWED, "use another platform"),
        "assurance": KnobCheck(
            assurance,
            Reason.ASSURANCE,
            ASK_PROVIDER,
        ),
    }
)
