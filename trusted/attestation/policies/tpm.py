"""What a TPM 2.0 quote must say to be good enough (docs/protocol.md §3.3). Trust zone: every TEE.

``KNOBS`` is the table of its knobs; what each one means for claims stands in ``tpm_checks.py``. A TPM says what was
booted. It keeps nobody who holds the machine from its memory: pair it with a TEE where that matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import Scheme
from trusted.attestation.policies import pcr_rules, rules
from trusted.attestation.policies.knob import ASSURANCE, Knob, KnobbedPolicy, integer, number, octets_list, value_of
from trusted.attestation.policies.pcr_rules import EventLogRule, PcrRule, RestartRule
from trusted.attestation.policies.rules import Demand, ReferenceValue, Skip
from trusted.attestation.roots import Assurance

_KEY_BYTES = 32
_MAX_VERSION = (1 << 53) - 1  # a JSON number; makers' numbers are lower in their first half
_KEYS = octets_list(_KEY_BYTES)

# Neither can be skipped: a digest means nothing without the PCRs it is of (PCRs 16 and 23 take whatever a host likes).
PCRS = Knob(
    "pcrs",
    "exactly the PCRs that the quote sums up: {bank: sha256|sha384, selection: [index], values: {index: [hex]}}",
    pcr_rules.read_pcrs,
    pcr_rules.write_pcrs,
    may_skip=False,
)
MEASUREMENTS = Knob(
    "measurements",
    "what may run: [{value: the digest over the selected PCRs, until: null or the end of an overlap window}]",
    pcr_rules.read_digests,
    pcr_rules.write_digests,
    may_skip=False,
)
EVENT_LOG = Knob(
    "event_log",
    "the PCRs whose values an event log must explain: {pcrs: [index]}",
    pcr_rules.read_event_log,
    pcr_rules.write_event_log,
)

KNOBS: tuple[Knob, ...] = (
    PCRS,
    MEASUREMENTS,
    EVENT_LOG,
    Knob(
        "algorithms",
        "how the attestation key may sign: [rsassa-sha256, rsassa-sha384, ecdsa-p256-sha256, ecdsa-p384-sha384]",
        pcr_rules.read_schemes,
        pcr_rules.write_schemes,
    ),
    Knob(
        "minimum_firmware",
        "lowest firmware version of the TPM, its maker's number shifted right by 32 bits",
        integer(0, _MAX_VERSION),
        number,
    ),
    Knob(
        "restarts",
        "how often the TPM may have been reset and resumed: {max_resets, max_restarts}",
        pcr_rules.read_restarts,
        pcr_rules.write_restarts,
    ),
    Knob("clock_safe", "require a TPM clock that never ran backwards; or any", rules.read_demand, value_of),
    Knob("keys", "the only attestation keys that may take part: SHA-256, 32 bytes each", _KEYS, rules.write_octets),
    Knob("denied_keys", "attestation keys that may not take part, 32 bytes each", _KEYS, rules.write_octets),
    ASSURANCE,
)


@dataclass(frozen=True, slots=True)
class TpmPolicy(KnobbedPolicy):
    """What a TPM quote must say. The knobs, one field each, are explained in :data:`KNOBS`."""

    KNOBS: ClassVar[tuple[Knob, ...]] = KNOBS

    pcrs: PcrRule
    measurements: tuple[ReferenceValue, ...]
    event_log: EventLogRule | Skip
    algorithms: tuple[Scheme, ...] | Skip
    minimum_firmware: int | Skip
    restarts: RestartRule | Skip
    clock_safe: Demand | Skip
    keys: tuple[bytes, ...] | Skip
    denied_keys: tuple[bytes, ...] | Skip
    assurance: Assurance


def strict_tpm_policy(
    measurements: Sequence[bytes | ReferenceValue],
    *,
    selection: Sequence[int],
    bank: Bank = Bank.SHA256,
    keys: Sequence[bytes],
    assurance: Assurance | str = Assurance.PROVIDER,
) -> TpmPolicy:
    """A policy to start a charter from: known keys, exactly these PCRs, explained by their log.

    Args:
        measurements: digests over the selected PCRs, 32 or 48 bytes by the key's scheme.
        selection: the PCRs.
        bank: their bank.
        keys: SHA-256 of the attestation keys that may take part, 32 bytes each.
        assurance: ``provider`` (a root for which the members vouch) or ``none``; no vendor's root is pinned.

    Raises:
        WireError: a value that a policy cannot hold.
    """
    policy = TpmPolicy(
        pcrs=PcrRule(bank, tuple(selection), ()),
        measurements=tuple(item if isinstance(item, ReferenceValue) else ReferenceValue(item) for item in measurements),
        event_log=EventLogRule(tuple(selection)),
        algorithms=tuple(Scheme),
        minimum_firmware=Skip("makers number their firmware as they like, so there is no floor for all"),
        restarts=Skip("a reset shows in the PCRs; the count alone says nothing"),
        clock_safe=Demand.ANY,  # every crash makes it unsafe until the next orderly shutdown
        keys=tuple(keys),
        denied_keys=(),
        assurance=Assurance(assurance),
    )
    return TpmPolicy.from_json(policy.to_json())
