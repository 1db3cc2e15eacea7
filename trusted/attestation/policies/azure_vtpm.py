"""What evidence of an Azure confidential VM must say to be good enough (docs/protocol.md §3.3). Trust zone: every TEE.

``KNOBS`` is the table of its knobs; what each one means for claims stands in ``azure_vtpm_checks.py``. The guest is
told by PCRs, the machine and Microsoft's paravisor by a whole policy for SEV-SNP in the knob ``snp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.policies import pcr_rules, rules
from trusted.attestation.policies.knob import ASSURANCE, Knob, KnobbedPolicy, listed, value_of
from trusted.attestation.policies.pcr_rules import EventLogRule, PcrRule, RestartRule
from trusted.attestation.policies.rules import Demand, Permission, ReferenceValue, Skip
from trusted.attestation.policies.snp import SnpPolicy, strict_snp_policy
from trusted.attestation.policies.tpm import EVENT_LOG, MEASUREMENTS, PCRS
from trusted.attestation.roots import Assurance
from trusted.errors import Reason, WireError
from trusted.wire import Fields, Json

_MAX_VMS = 1024
_MAX_ID_CHARACTERS = 64


def _read_snp(fields: Fields, key: str) -> SnpPolicy:
    return SnpPolicy.from_json(fields.mapping(key), fields.path(key))


def _write_snp(policy: SnpPolicy) -> dict[str, Json]:
    return policy.to_json()


def _read_vm_ids(fields: Fields, key: str) -> tuple[str, ...]:
    path = fields.path(key)
    items = fields.items(key, max_items=_MAX_VMS)
    names = tuple(Fields({"id": item}, path).text("id", max_length=_MAX_ID_CHARACTERS) for item in items)
    if len(set(names)) != len(names):
        raise WireError(Reason.MALFORMED, f"{path}: no item twice")
    return names


KNOBS: tuple[Knob, ...] = (
    PCRS,
    MEASUREMENTS,
    EVENT_LOG,
    Knob("snp", "what the SNP report below must say: a policy of snp", _read_snp, _write_snp, may_skip=False),
    Knob("secure_boot", "require UEFI secure boot; or any", rules.read_demand, value_of),
    Knob("console", "refuse machines with a serial console for the host; or allow", rules.read_permission, value_of),
    Knob(
        "fresh_report",
        "require an SNP report over the nonce itself, not only over the vTPM's key; or any",
        rules.read_demand,
        value_of,
    ),
    Knob(
        "restarts",
        "how often the vTPM may have been reset and resumed: {max_resets, max_restarts}",
        pcr_rules.read_restarts,
        pcr_rules.write_restarts,
    ),
    Knob("vm_ids", "the only machines that may take part, by vmUniqueId", _read_vm_ids, listed),
    ASSURANCE,
)


@dataclass(frozen=True, slots=True)
class AzureVtpmPolicy(KnobbedPolicy):
    """What an Azure confidential VM must say. The knobs, one field each, are explained in :data:`KNOBS`."""

    KNOBS: ClassVar[tuple[Knob, ...]] = KNOBS

    pcrs: PcrRule
    measurements: tuple[ReferenceValue, ...]
    event_log: EventLogRule | Skip
    snp: SnpPolicy
    secure_boot: Demand | Skip
    console: Permission | Skip
    fresh_report: Demand | Skip
    restarts: RestartRule | Skip
    vm_ids: tuple[str, ...] | Skip
    assurance: Assurance


def strict_azure_vtpm_policy(
    measurements: Sequence[bytes | ReferenceValue],
    *,
    selection: Sequence[int],
    paravisors: Sequence[bytes | ReferenceValue],
    products: Sequence[str] = ("Genoa", "Turin"),
    chip_ids: Sequence[bytes] | None = None,
) -> AzureVtpmPolicy:
    """A policy to start a charter from.

    Args:
        measurements: digests over the selected PCRs (SHA-256 bank), 32 bytes each.
        selection: the PCRs.
        paravisors: measurements of Microsoft's paravisor in the SNP report, 48 bytes each.
        products: processor generations; Milan needs ``chip_ids``.
        chip_ids: the only processors that may take part, 64 bytes each.

    Raises:
        WireError: a value that a policy cannot hold.
    """
    policy = AzureVtpmPolicy(
        pcrs=PcrRule(Bank.SHA256, tuple(selection), ()),
        measurements=tuple(item if isinstance(item, ReferenceValue) else ReferenceValue(item) for item in measurements),
        event_log=EventLogRule(tuple(selection)),
        snp=strict_snp_policy(paravisors, products=products, chip_ids=chip_ids),
        secure_boot=Demand.REQUIRE,
        console=Permission.REFUSE,
        fresh_report=Demand.REQUIRE,
        restarts=Skip("a reset shows in the PCRs; the count alone says nothing"),
        vm_ids=Skip("every machine of the listed products may take part"),
        assurance=Assurance.HARDWARE,
    )
    return AzureVtpmPolicy.from_json(policy.to_json())
