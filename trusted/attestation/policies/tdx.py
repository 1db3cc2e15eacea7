"""What TDX evidence must say to be good enough (docs/protocol.md §3.3). Trust zone: every TEE.

``KNOBS`` is the table of its knobs; what each one means for claims stands in ``tdx_checks.py`` and
``intel_checks.py``. MRTD covers the firmware alone: kernel and command line stand in RTMR1 and RTMR2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trusted.attestation.formats.dcap import TD_ATTRIBUTES
from trusted.attestation.policies import intel, rules
from trusted.attestation.policies.intel import IntelPlatformPolicy
from trusted.attestation.policies.knob import (
    Knob,
    KnobbedPolicy,
    hexadecimal,
    measurements,
    octets,
    octets_list,
    value_of,
)
from trusted.attestation.policies.rules import Demand, Permission, PlatformRule, ReferenceValue, Skip
from trusted.attestation.roots import Assurance
from trusted.errors import Reason, WireError
from trusted.wire import Fields, Json

MEASUREMENT_BYTES = 48
_MAX_ITEMS = 1024


@dataclass(frozen=True, slots=True)
class RegisterRule:
    """What one RTMR may hold: one of ``values``, or else the replay of a log whose every event is in ``events``."""

    values: tuple[bytes, ...]
    events: tuple[bytes, ...] = ()


def _read_register(fields: Fields, key: str) -> RegisterRule:
    """``{"values": [48 bytes], "events": [48 bytes]}``. All zeros is a value: nothing was measured."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        return RegisterRule(_read_digests(entry, "values"), _read_digests(entry, "events"))


def _read_digests(fields: Fields, key: str) -> tuple[bytes, ...]:
    found: list[bytes] = []
    for index, item in enumerate(fields.items(key, max_items=_MAX_ITEMS)):
        path = f"{fields.path(key)}[{index}]"
        value = Fields({"hex": item}, path).octets("hex", MEASUREMENT_BYTES)
        if value in found:
            raise WireError(Reason.MALFORMED, f"{path}: no item twice")
        found.append(value)
    return tuple(found)


def _write_register(rule: RegisterRule) -> dict[str, Json]:
    return {"values": rules.write_octets(rule.values), "events": rules.write_octets(rule.events)}


def _register(number: int, holds: str) -> Knob:
    meaning = f"what RTMR{number} may hold ({holds}): {{values: [SHA-384], events: [SHA-384 that a log may list]}}"
    return Knob(f"rtmr{number}", meaning, _read_register, _write_register)


_DIGEST = octets(MEASUREMENT_BYTES)
_SVN = octets(16)

# name, meaning, how the value reads, how it is written. Values are those of rules.py.
KNOBS: tuple[Knob, ...] = (
    measurements(MEASUREMENT_BYTES, "MRTD, SHA-384"),
    _register(0, "the machine's shape and the firmware's settings"),
    _register(1, "boot loader and kernel"),
    _register(2, "command line and initial RAM disk"),
    _register(3, "what was measured at run time"),
    Knob("event_log", "require a log that leads to all four RTMRs; or any", rules.read_demand, value_of),
    Knob("mr_seam", "the only TDX modules, 48 bytes each", octets_list(MEASUREMENT_BYTES), rules.write_octets),
    Knob("mr_signer_seam", "who signed the TDX module, 48 bytes; zeros are Intel", _DIGEST, hexadecimal),
    Knob("mr_config_id", "what follows host_data in MRCONFIGID, 16 bytes; zeros here", _SVN, hexadecimal),
    Knob("mr_owner", "MROWNER, 48 bytes", _DIGEST, hexadecimal),
    Knob("mr_owner_config", "MROWNERCONFIG, 48 bytes", _DIGEST, hexadecimal),
    Knob("xfam", "the only sets of CPU features, 8 bytes each", octets_list(8), rules.write_octets),
    Knob(
        "debug",
        "refuse guests whose memory the host may read; no verifier allows them",
        rules.read_permission,
        value_of,
    ),
    Knob("migration", "refuse guests that may be migrated; no verifier allows them", rules.read_permission, value_of),
    Knob(
        "td_attributes",
        "attributes that must be on and off: {require: [flag], refuse: [flag]}",
        intel.read_flag_rule(TD_ATTRIBUTES),
        rules.write_platform,
    ),
    Knob("minimum_tee_tcb_svn", "lowest security versions at launch, 16 bytes, each by itself", _SVN, hexadecimal),
    Knob("minimum_tee_tcb_svn2", "the same for the module that runs now; TD 1.5 alone has it", _SVN, hexadecimal),
    *intel.PLATFORM_KNOBS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxPolicy(IntelPlatformPolicy, KnobbedPolicy):
    """What TDX evidence must say. The knobs, one field each, are explained in :data:`KNOBS`."""

    KNOBS: ClassVar[tuple[Knob, ...]] = KNOBS

    measurements: tuple[ReferenceValue, ...]
    rtmr0: RegisterRule | Skip
    rtmr1: RegisterRule | Skip
    rtmr2: RegisterRule | Skip
    rtmr3: RegisterRule | Skip
    event_log: Demand | Skip
    mr_seam: tuple[bytes, ...] | Skip
    mr_signer_seam: bytes | Skip
    mr_config_id: bytes | Skip
    mr_owner: bytes | Skip
    mr_owner_config: bytes | Skip
    xfam: tuple[bytes, ...] | Skip
    debug: Permission | Skip
    migration: Permission | Skip
    td_attributes: PlatformRule | Skip
    minimum_tee_tcb_svn: bytes | Skip
    minimum_tee_tcb_svn2: bytes | Skip


def strict_tdx_policy(
    measurements: Sequence[bytes | ReferenceValue],
    rtmrs: Mapping[int, Sequence[bytes]],
    *,
    ppids: Sequence[bytes] | None = None,
    assurance: Assurance | str = Assurance.HARDWARE,
) -> TdxPolicy:
    """A policy to start a charter from: everything refused that a current cloud guest does not need.

    Args:
        measurements: MRTD, 48 bytes each.
        rtmrs: by number, what each register may hold. RTMR1 and RTMR2 say which system runs: without their values
            the policy refuses every guest. RTMR0 is skipped without a value; RTMR3 must then be zeros.
        ppids: the only platforms that may take part, 16 bytes each; None allows all that Intel certifies.
        assurance: ``possession``, ``hardware`` or ``none``.

    Raises:
        WireError: a value that a policy cannot hold.
    """
    values = {number: RegisterRule(tuple(rtmrs.get(number, ()))) for number in range(4)}
    shape = Skip("RTMR0 holds the machine's shape, which differs between machines that run the same image")
    zeros = bytes(MEASUREMENT_BYTES)
    policy = TdxPolicy(
        measurements=tuple(item if isinstance(item, ReferenceValue) else ReferenceValue(item) for item in measurements),
        rtmr0=values[0] if 0 in rtmrs else shape,
        rtmr1=values[1],
        rtmr2=values[2],
        rtmr3=values[3] if 3 in rtmrs else RegisterRule((zeros,)),
        event_log=Demand.ANY,
        mr_seam=Skip("Intel signs the module, and tcb_statuses judges its version"),
        mr_signer_seam=zeros,
        mr_config_id=bytes(16),
        mr_owner=zeros,
        mr_owner_config=zeros,
        xfam=Skip("the bits that TDX fixes are checked, and further CPU features take nothing away"),
        debug=Permission.REFUSE,
        migration=Permission.REFUSE,
        td_attributes=PlatformRule(require=("sept_ve_disable",), refuse=("debug", "migratable", "perfmon")),
        minimum_tee_tcb_svn=bytes([5, 1, 2]) + bytes(13),  # TDX module 1.5.05, Intel's floor of 2025
        minimum_tee_tcb_svn2=Skip("TD 1.0 reports do not have it, and minimum_tee_tcb_svn holds for both"),
        ppids=Skip("every platform that Intel certifies may take part") if ppids is None else tuple(ppids),
        assurance=Assurance(assurance),
        **intel.strict_platform(),
    )
    return TdxPolicy.from_json(policy.to_json())
