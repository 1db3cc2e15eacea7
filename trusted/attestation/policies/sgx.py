"""What SGX evidence must say to be good enough (docs/protocol.md §3.3). Trust zone: every TEE.

``KNOBS`` is the table of its knobs; what each one means for claims stands in ``sgx_checks.py`` and
``intel_checks.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trusted.attestation.formats.dcap import SGX_ATTRIBUTES
from trusted.attestation.policies import intel, rules
from trusted.attestation.policies.intel import IntelPlatformPolicy
from trusted.attestation.policies.knob import (
    Knob,
    KnobbedPolicy,
    hexadecimal,
    integer,
    measurements,
    number,
    octets,
    octets_list,
    value_of,
)
from trusted.attestation.policies.rules import Permission, PlatformRule, ReferenceValue, Skip
from trusted.attestation.roots import Assurance

MEASUREMENT_BYTES = 32
_MAX_NUMBER = 0xFFFF
_NUMBER = integer(0, _MAX_NUMBER)

# name, meaning, how the value reads, how it is written. Values are those of rules.py.
KNOBS: tuple[Knob, ...] = (
    measurements(MEASUREMENT_BYTES, "MRENCLAVE, SHA-256"),
    Knob(
        "mr_signers", "the only signers of the enclave (MRSIGNER), 32 bytes each", octets_list(32), rules.write_octets
    ),
    Knob("isv_prod_id", "the signer's number of the product, 0 to 65535", _NUMBER, number),
    Knob("minimum_isv_svn", "lowest security version that the signer gave it, 0 to 65535", _NUMBER, number),
    Knob("isv_ext_prod_id", "the signer's extended number of the product, 16 bytes", octets(16), hexadecimal),
    Knob("isv_family_id", "the signer's family of products, 16 bytes", octets(16), hexadecimal),
    Knob("config_id", "CONFIGID, which the host chose at launch, 64 bytes", octets(64), hexadecimal),
    Knob("minimum_config_svn", "lowest CONFIGSVN, 0 to 65535", _NUMBER, number),
    Knob(
        "debug",
        "refuse enclaves whose memory the host may read; no verifier allows them",
        rules.read_permission,
        value_of,
    ),
    Knob(
        "attributes",
        "attributes that must be on and off: {require: [flag], refuse: [flag]}",
        intel.read_flag_rule(SGX_ATTRIBUTES),
        rules.write_platform,
    ),
    Knob("xfrm", "the only sets of CPU features, 8 bytes each", octets_list(8), rules.write_octets),
    Knob("misc_select", "the extended features of exception handling, as a number", integer(0, 0xFFFFFFFF), number),
    *intel.PLATFORM_KNOBS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxPolicy(IntelPlatformPolicy, KnobbedPolicy):
    """What SGX evidence must say. The knobs, one field each, are explained in :data:`KNOBS`."""

    KNOBS: ClassVar[tuple[Knob, ...]] = KNOBS

    measurements: tuple[ReferenceValue, ...]
    mr_signers: tuple[bytes, ...] | Skip
    isv_prod_id: int | Skip
    minimum_isv_svn: int | Skip
    isv_ext_prod_id: bytes | Skip
    isv_family_id: bytes | Skip
    config_id: bytes | Skip
    minimum_config_svn: int | Skip
    debug: Permission | Skip
    attributes: PlatformRule | Skip
    xfrm: tuple[bytes, ...] | Skip
    misc_select: int | Skip


def strict_sgx_policy(
    measurements: Sequence[bytes | ReferenceValue],
    *,
    mr_signers: Sequence[bytes] | None = None,
    ppids: Sequence[bytes] | None = None,
    assurance: Assurance | str = Assurance.HARDWARE,
) -> SgxPolicy:
    """A policy to start a charter from: everything refused that an ordinary enclave does not need.

    Args:
        measurements: MRENCLAVE, 32 bytes each.
        mr_signers: the only signers, 32 bytes each; None leaves it to the measurement.
        ppids: the only platforms that may take part, 16 bytes each; None allows all that Intel certifies.
        assurance: ``possession``, ``hardware`` or ``none``.

    Raises:
        WireError: a value that a policy cannot hold.
    """
    pinned = Skip("the enclave is pinned by its measurement")
    policy = SgxPolicy(
        measurements=tuple(item if isinstance(item, ReferenceValue) else ReferenceValue(item) for item in measurements),
        mr_signers=pinned if mr_signers is None else tuple(mr_signers),
        isv_prod_id=pinned,
        minimum_isv_svn=pinned,
        isv_ext_prod_id=bytes(16),
        isv_family_id=bytes(16),
        config_id=bytes(64),
        minimum_config_svn=0,
        debug=Permission.REFUSE,
        attributes=PlatformRule(require=("init", "mode64bit"), refuse=("debug", "provision_key", "einittoken_key")),
        xfrm=Skip("CPU features are pinned by the enclave's signature"),
        misc_select=Skip("what an exception shows is for the enclave's signer to choose"),
        ppids=Skip("every platform that Intel certifies may take part") if ppids is None else tuple(ppids),
        assurance=Assurance(assurance),
        **intel.strict_platform(),
    )
    return SgxPolicy.from_json(policy.to_json())
