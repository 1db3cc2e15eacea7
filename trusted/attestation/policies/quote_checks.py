"""Checks of a TPM quote that ``tpm`` and ``azure-vtpm`` share. Trust zone: every TEE."""

from __future__ import annotations

from trusted.attestation.policies.check import Finding, finding, names
from trusted.attestation.policies.pcr_rules import EventLogRule, PcrRule
from trusted.attestation.tpm_claims import QuoteClaims


def pcrs(quote: QuoteClaims, rule: PcrRule) -> Finding:
    """The selection is the policy's to the bit: a value means something only for its own index and bank."""
    selection = [(item.bank, item.indexes) for item in quote.selections]
    if selection != [(rule.bank, rule.selection)]:
        actual = "; ".join(f"{bank.label} {_indexes(indexes)}" for bank, indexes in selection)
        return finding(False, f"the selection {rule.bank.label} {_indexes(rule.selection)}", actual)
    held = {pcr.index: pcr.value for pcr in quote.pcrs}
    wrong = [index for index, allowed in rule.values if held[index] not in allowed]
    actual = "; ".join(f"PCR {index} {held[index].hex()}" for index in wrong) or "as listed"
    return finding(not wrong, f"{rule.bank.label} {_indexes(rule.selection)} with the listed values", actual)


def event_log(quote: QuoteClaims, rule: EventLogRule) -> Finding:
    """A log came along, and its replay gives the quoted values of these PCRs."""
    explained = quote.replayed.issuperset(rule.pcrs)
    actual = f"PCRs explained: {_indexes(tuple(sorted(quote.replayed)))}"
    return finding(explained, f"a log that explains the PCRs {_indexes(rule.pcrs)}", actual)


def _indexes(indexes: tuple[int, ...]) -> str:
    return ", ".join(str(index) for index in indexes) or names(())
