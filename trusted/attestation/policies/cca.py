"""What an Arm CCA token must say to be good enough (docs/protocol.md §3.3). Trust zone: every TEE.

``KNOBS`` is the table of its knobs; what each one means for claims stands in ``cca_checks.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trusted.attestation.formats.cca import (
    HASH_BYTES,
    IMPLEMENTATION_ID_BYTES,
    INSTANCE_ID_BYTES,
    REALM_REGISTERS,
    Lifecycle,
    Profile,
    SoftwareComponent,
)
from trusted.attestation.policies import rules
from trusted.attestation.policies.knob import ASSURANCE, Knob, KnobbedPolicy, listed, octets_list, value_of
from trusted.attestation.policies.rules import Permission, ReferenceValue, Skip
from trusted.attestation.roots import Assurance
from trusted.errors import Reason, WireError
from trusted.wire import Fields, Json

_DIGEST_SIZES = tuple(HASH_BYTES.values())
_MAX_ITEMS = 1024
_REGISTERS = tuple(f"rem{index}" for index in range(REALM_REGISTERS))
LIFECYCLES = tuple(state.name.lower() for state in Lifecycle)


@dataclass(frozen=True, slots=True)
class ComponentReference:
    """Firmware that may be on a platform: who signed it, and its measurement (32, 48 or 64 bytes each)."""

    signer: bytes
    measurement: bytes


@dataclass(frozen=True, slots=True)
class RegisterRule:
    """Values that extensible measurements may have. A register without an entry may have any."""

    allowed: tuple[tuple[str, tuple[bytes, ...]], ...]


def _read_measurements(fields: Fields, key: str) -> tuple[ReferenceValue, ...]:
    """As every platform's; the size of each value is that of one of the hash algorithms."""
    path = fields.path(key)
    references: list[ReferenceValue] = []
    for index, item in enumerate(fields.items(key, max_items=_MAX_ITEMS)):
        with Fields(item, f"{path}[{index}]") as entry:
            value = _read_digest(entry, "value")
            until = entry.take("until", str, type(None))
            time = None if until is None else rules.read_time(until, entry.path("until"))
            references.append(ReferenceValue(value, time))
    if not references or len({reference.value for reference in references}) != len(references):
        raise WireError(Reason.MALFORMED, f"{path}: at least one measurement, and none twice, expected")
    return tuple(references)


def _read_digest(fields: Fields, key: str) -> bytes:
    value = fields.octets(key)
    if len(value) not in _DIGEST_SIZES:
        raise WireError(Reason.MALFORMED, f"{fields.path(key)}: 32, 48 or 64 bytes expected")
    return value


def _read_registers(fields: Fields, key: str) -> RegisterRule:
    allowed: list[tuple[str, tuple[bytes, ...]]] = []
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        for register in entry.names():
            if register not in _REGISTERS:
                raise WireError(Reason.UNKNOWN_FIELD, f"{fields.path(key)}: only {', '.join(_REGISTERS)} expected")
            values = entry.items(register, max_items=_MAX_ITEMS)
            path = entry.path(register)
            allowed.append((register, tuple(_read_digest(Fields({"hex": item}, path), "hex") for item in values)))
    if not allowed:
        raise WireError(Reason.MALFORMED, f"{fields.path(key)}: at least one register expected; or skip it")
    return RegisterRule(tuple(allowed))


def _write_registers(rule: RegisterRule) -> Json:
    return {register: rules.write_octets(values) for register, values in rule.allowed}


def _read_components(fields: Fields, key: str) -> tuple[ComponentReference, ...]:
    path = fields.path(key)
    references: list[ComponentReference] = []
    for index, item in enumerate(fields.items(key, max_items=_MAX_ITEMS)):
        with Fields(item, f"{path}[{index}]") as entry:
            references.append(ComponentReference(_read_digest(entry, "signer"), _read_digest(entry, "measurement")))
    if len(set(references)) != len(references):
        raise WireError(Reason.MALFORMED, f"{path}: no item twice")
    return tuple(references)


def _write_components(references: tuple[ComponentReference, ...]) -> Json:
    return [{"signer": item.signer.hex(), "measurement": item.measurement.hex()} for item in references]


def _read_configs(fields: Fields, key: str) -> tuple[bytes, ...]:
    path = fields.path(key)
    items = fields.items(key, max_items=_MAX_ITEMS)
    return tuple(Fields({"hex": item}, f"{path}[{index}]").octets("hex") for index, item in enumerate(items))


# name, meaning, how the value reads, how it is written. Values are those of rules.py.
KNOBS: tuple[Knob, ...] = (
    Knob(
        "measurements",
        "what may run: [{value: RIM of 32, 48 or 64 bytes, until: null or the end of an overlap window}]",
        _read_measurements,
        rules.write_measurements,
        may_skip=False,
    ),
    Knob(
        "registers",
        "values of extensible measurements: {rem0 to rem3: [value]}; one without an entry may have any",
        _read_registers,
        _write_registers,
    ),
    Knob(
        "profiles",
        "token profiles that may be used, by their names",
        lambda fields, key: rules.read_names(fields, key, [profile.value for profile in Profile]),
        listed,
    ),
    Knob("debug", "refuse platforms that are not in the secured state; or allow", rules.read_permission, value_of),
    Knob(
        "lifecycle",
        f"states that the platform may be in: [{', '.join(LIFECYCLES)}]",
        lambda fields, key: rules.read_names(fields, key, LIFECYCLES),
        listed,
    ),
    Knob(
        "components",
        "the only firmware that may be on the platform: [{signer, measurement}]",
        _read_components,
        _write_components,
    ),
    Knob("configs", "values of the platform config, in its maker's encoding", _read_configs, rules.write_octets),
    Knob(
        "implementations",
        "the only implementation ids that may take part, 32 bytes each",
        octets_list(IMPLEMENTATION_ID_BYTES),
        rules.write_octets,
    ),
    Knob(
        "instances",
        "the only platforms that may take part, by instance id, 33 bytes each",
        octets_list(INSTANCE_ID_BYTES),
        rules.write_octets,
    ),
    Knob(
        "denied_instances",
        "platforms that may not take part, by instance id, 33 bytes each",
        octets_list(INSTANCE_ID_BYTES),
        rules.write_octets,
    ),
    ASSURANCE,
)


@dataclass(frozen=True, slots=True)
class CcaPolicy(KnobbedPolicy):
    """What a CCA token must say. The knobs, one field each, are explained in :data:`KNOBS`."""

    KNOBS: ClassVar[tuple[Knob, ...]] = KNOBS

    measurements: tuple[ReferenceValue, ...]
    registers: RegisterRule | Skip
    profiles: tuple[str, ...] | Skip
    debug: Permission | Skip
    lifecycle: tuple[str, ...] | Skip
    components: tuple[ComponentReference, ...] | Skip
    configs: tuple[bytes, ...] | Skip
    implementations: tuple[bytes, ...] | Skip
    instances: tuple[bytes, ...] | Skip
    denied_instances: tuple[bytes, ...] | Skip
    assurance: Assurance


def strict_cca_policy(
    measurements: Sequence[bytes | ReferenceValue],
    *,
    components: Sequence[SoftwareComponent | ComponentReference],
    profiles: Sequence[Profile] = (Profile.V1, Profile.V2),
    assurance: Assurance | str = Assurance.PROVIDER,
    instances: Sequence[bytes] | None = None,
) -> CcaPolicy:
    """A policy to start a charter from.

    Args:
        measurements: initial measurements of realms, 32, 48 or 64 bytes each.
        components: the firmware that may be on the platform.
        profiles: the older form of token is left out: no released firmware writes it.
        assurance: ``provider`` (a root for which the members vouch) or ``none``; no vendor's root is pinned.
        instances: the only platforms that may take part; None allows every one under the charter's roots, each of
            which is one platform's key.

    Raises:
        WireError: a value that a policy cannot hold.
    """
    references = dict.fromkeys(ComponentReference(item.signer, item.measurement) for item in components)
    policy = CcaPolicy(
        measurements=tuple(item if isinstance(item, ReferenceValue) else ReferenceValue(item) for item in measurements),
        registers=Skip("the realm extends no measurement that its image does not fix"),
        profiles=tuple(profile.value for profile in profiles),
        debug=Permission.REFUSE,
        lifecycle=("secured",),
        components=tuple(references),
        configs=Skip("its encoding is the maker's own"),
        implementations=Skip("each root is one platform's key"),
        instances=Skip("each root is one platform's key") if instances is None else tuple(instances),
        denied_instances=(),
        assurance=Assurance(assurance),
    )
    return CcaPolicy.from_json(policy.to_json())
