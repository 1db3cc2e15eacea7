"""What a Nitro Enclave's document must say to be good enough (docs/protocol.md §3.3). Trust zone: every TEE.

``KNOBS`` is the table of its knobs; what each one means for claims stands in ``nitro_checks.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trusted.attestation.policies import rules
from trusted.attestation.policies.knob import (
    ASSURANCE,
    Knob,
    KnobbedPolicy,
    integer,
    listed,
    measurements,
    number,
    octets_list,
    value_of,
)
from trusted.attestation.policies.rules import Demand, Permission, ReferenceValue, Skip
from trusted.attestation.roots import Assurance
from trusted.errors import Reason, WireError
from trusted.wire import Fields

_PCR_BYTES = 48
_MAX_AGE_S = 3600
_MAX_INSTANCES = 1024
_PCRS = octets_list(_PCR_BYTES)


def _read_instances(fields: Fields, key: str) -> tuple[str, ...]:
    """A list of distinct instance ids."""
    path = fields.path(key)
    names = fields.items(key, max_items=_MAX_INSTANCES)
    for index, name in enumerate(names):
        Fields({"id": name}, f"{path}[{index}]").text("id", max_length=128)
    if len(set(names)) != len(names):
        raise WireError(Reason.MALFORMED, f"{path}: no item twice")
    return tuple(names)


def _pcr(index: int, meaning: str) -> Knob:
    return Knob(f"pcr{index}", f"values of PCR {index}, {meaning}: 48 bytes each", _PCRS, rules.write_octets)


# name, meaning, how the value reads, how it is written. Values are those of rules.py.
KNOBS: tuple[Knob, ...] = (
    measurements(_PCR_BYTES, "PCR 0, SHA-384 of the image"),
    Knob("debug", "refuse enclaves whose console the host may read; or allow", rules.read_permission, value_of),
    _pcr(1, "kernel and boot ramdisk"),
    _pcr(2, "application ramdisks"),
    _pcr(3, "the IAM role of the parent instance"),
    _pcr(4, "the id of the parent instance"),
    _pcr(8, "the certificate that signed the image"),
    Knob(
        "nonce",
        "require the short nonce of the session in the nonce field; or any: that, or nothing",
        rules.read_demand,
        value_of,
    ),
    Knob(
        "maximum_age_s",
        "how far the document's time may be from now, in seconds, 1 to 3600",
        integer(1, _MAX_AGE_S),
        number,
    ),
    Knob("instances", "the only EC2 instances that may take part: [i-…]", _read_instances, listed),
    Knob("denied_instances", "EC2 instances that may not take part: [i-…]", _read_instances, listed),
    ASSURANCE,
)


@dataclass(frozen=True, slots=True)
class NitroPolicy(KnobbedPolicy):
    """What a Nitro document must say. The knobs, one field each, are explained in :data:`KNOBS`."""

    KNOBS: ClassVar[tuple[Knob, ...]] = KNOBS

    measurements: tuple[ReferenceValue, ...]
    debug: Permission | Skip
    pcr1: tuple[bytes, ...] | Skip
    pcr2: tuple[bytes, ...] | Skip
    pcr3: tuple[bytes, ...] | Skip
    pcr4: tuple[bytes, ...] | Skip
    pcr8: tuple[bytes, ...] | Skip
    nonce: Demand | Skip
    maximum_age_s: int | Skip
    instances: tuple[str, ...] | Skip
    denied_instances: tuple[str, ...] | Skip
    assurance: Assurance


def strict_nitro_policy(
    measurements: Sequence[bytes | ReferenceValue],
    *,
    assurance: Assurance | str = Assurance.HARDWARE,
    instances: Sequence[str] | None = None,
    roles: Sequence[bytes] | None = None,
    signers: Sequence[bytes] | None = None,
) -> NitroPolicy:
    """A policy to start a charter from.

    Args:
        measurements: values of PCR 0, 48 bytes each.
        assurance: ``possession``, ``hardware`` or ``none``.
        instances: the only EC2 instances that may take part; None allows every one that AWS certifies.
        roles: values of PCR 3, for parents of these IAM roles only.
        signers: values of PCR 8, for images signed with these certificates only.

    Raises:
        WireError: a value that a policy cannot hold.
    """
    whole_image = Skip("PCR 0 covers the whole image")
    policy = NitroPolicy(
        measurements=tuple(item if isinstance(item, ReferenceValue) else ReferenceValue(item) for item in measurements),
        debug=Permission.REFUSE,
        pcr1=whole_image,
        pcr2=whole_image,
        pcr3=Skip("the enclave may run under any role") if roles is None else tuple(roles),
        pcr4=Skip("the enclave may run on any parent instance"),
        pcr8=Skip("the image is pinned by its measurement") if signers is None else tuple(signers),
        nonce=Demand.REQUIRE,
        maximum_age_s=60,
        instances=Skip("the enclave may run on any parent instance") if instances is None else tuple(instances),
        denied_instances=(),
        assurance=Assurance(assurance),
    )
    return NitroPolicy.from_json(policy.to_json())
