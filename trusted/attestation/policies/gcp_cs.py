"""What a token of Confidential Space must say to be good enough (docs/protocol.md §3.3). Trust zone: every TEE.

``KNOBS`` is the table of its knobs; what each one means for claims stands in ``gcp_cs_checks.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trusted.attestation.policies import rules
from trusted.attestation.policies.knob import ASSURANCE, Knob, KnobbedPolicy, integer, listed, measurements, value_of
from trusted.attestation.policies.knob import number as write_number
from trusted.attestation.policies.rules import Demand, Permission, ReferenceValue, Skip
from trusted.attestation.roots import Assurance
from trusted.errors import Reason, WireError
from trusted.wire import Fields, Json

AUDIENCE = "https://cloister"
_IMAGE_BYTES = 32
_HARDWARE = ("GCP_AMD_SEV", "GCP_AMD_SEV_ES", "GCP_INTEL_TDX", "GCP_SHIELDED_VM")
_SUPPORT = ("STABLE", "LATEST", "USABLE", "EXPERIMENTAL")
_MAX_ITEMS = 256
_MAX_CHARACTERS = 1024
_MAX_VERSION = 10**12
_MAX_AGE_S = 86400


def _read_texts(fields: Fields, key: str) -> tuple[str, ...]:
    path = fields.path(key)
    items = fields.items(key, max_items=_MAX_ITEMS)
    return tuple(Fields({"text": item}, path).text("text", max_length=_MAX_CHARACTERS) for item in items)


def _read_names(fields: Fields, key: str) -> tuple[str, ...]:
    names = _read_texts(fields, key)
    if len(set(names)) != len(names):
        raise WireError(Reason.MALFORMED, f"{fields.path(key)}: no item twice")
    return names


def _read_environment(fields: Fields, key: str) -> tuple[tuple[str, str], ...]:
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        names = entry.names()
        if len(names) > _MAX_ITEMS:
            raise WireError(Reason.TOO_LARGE, f"{fields.path(key)}: at most {_MAX_ITEMS} variables")
        return tuple((name, str(entry.take(name, str))) for name in names)


def _write_environment(value: tuple[tuple[str, str], ...]) -> dict[str, Json]:
    return dict(value)


KNOBS: tuple[Knob, ...] = (
    Knob(
        "hardware",
        "kinds of machine that may take part: [" + ", ".join(_HARDWARE) + "]",
        lambda fields, key: rules.read_names(fields, key, _HARDWARE),
        listed,
    ),
    measurements(_IMAGE_BYTES, "SHA-256 of the container image's manifest"),
    Knob(
        "audience",
        "whom the token must be made for",
        lambda fields, key: fields.text(key, max_length=512),
        lambda text: text,
    ),
    Knob(
        "debug",
        "refuse the launcher's debug image, which lets the operator in; or allow",
        rules.read_permission,
        value_of,
    ),
    Knob("secure_boot", "require secure boot; or any", rules.read_demand, value_of),
    Knob("minimum_version", "lowest version of the launcher's image", integer(0, _MAX_VERSION), write_number),
    Knob(
        "support",
        "the launcher's image must have one of: [" + ", ".join(_SUPPORT) + "]",
        lambda fields, key: rules.read_names(fields, key, _SUPPORT),
        listed,
    ),
    Knob("arguments", "exactly the arguments that the workload is started with", _read_texts, listed),
    Knob(
        "environment",
        "exactly the variables that the operator sets: {name: value}",
        _read_environment,
        _write_environment,
    ),
    Knob("command", "refuse another command than the image's own; or allow", rules.read_permission, value_of),
    Knob(
        "monitoring",
        "refuse machines whose memory metrics the operator collects; or allow",
        rules.read_permission,
        value_of,
    ),
    Knob("projects", "the only Google Cloud projects that may take part", _read_names, listed),
    Knob("instances", "the only machines that may take part, by instance id", _read_names, listed),
    Knob("denied_instances", "machines that may not take part, by instance id", _read_names, listed),
    Knob("max_age_s", "how old the token may be, 1 to 86400 seconds", integer(1, _MAX_AGE_S), write_number),
    ASSURANCE,
)


@dataclass(frozen=True, slots=True)
class GcpCsPolicy(KnobbedPolicy):
    """What a token of Confidential Space must say. The knobs, one field each, are explained in :data:`KNOBS`."""

    KNOBS: ClassVar[tuple[Knob, ...]] = KNOBS

    hardware: tuple[str, ...] | Skip
    measurements: tuple[ReferenceValue, ...]
    audience: str | Skip
    debug: Permission | Skip
    secure_boot: Demand | Skip
    minimum_version: int | Skip
    support: tuple[str, ...] | Skip
    arguments: tuple[str, ...] | Skip
    environment: tuple[tuple[str, str], ...] | Skip
    command: Permission | Skip
    monitoring: Permission | Skip
    projects: tuple[str, ...] | Skip
    instances: tuple[str, ...] | Skip
    denied_instances: tuple[str, ...] | Skip
    max_age_s: int | Skip
    assurance: Assurance


def strict_gcp_cs_policy(
    measurements: Sequence[bytes | ReferenceValue],
    *,
    projects: Sequence[str],
    arguments: Sequence[str] = (),
    minimum_version: int = 240900,
    assurance: Assurance | str = Assurance.PROVIDER,
) -> GcpCsPolicy:
    """A policy to start a charter from: encrypted memory, the stable launcher, nothing of the operator's choosing.

    Args:
        measurements: SHA-256 of the image manifests that may run.
        projects: the members' own projects.
        arguments: what the workload is started with.
        minimum_version: of the launcher's image.
        assurance: ``provider`` (a root for which the members vouch) or ``none``; no vendor's root is pinned.

    Raises:
        WireError: a value that a policy cannot hold.
    """
    policy = GcpCsPolicy(
        hardware=("GCP_AMD_SEV", "GCP_INTEL_TDX"),
        measurements=tuple(item if isinstance(item, ReferenceValue) else ReferenceValue(item) for item in measurements),
        audience=AUDIENCE,
        debug=Permission.REFUSE,
        secure_boot=Demand.REQUIRE,
        minimum_version=minimum_version,
        support=("STABLE",),
        arguments=tuple(arguments),
        environment=(),
        command=Permission.REFUSE,
        monitoring=Permission.REFUSE,
        projects=tuple(projects),
        instances=Skip("every machine of the listed projects may take part"),
        denied_instances=(),
        max_age_s=300,
        assurance=Assurance(assurance),
    )
    return GcpCsPolicy.from_json(policy.to_json())
