"""One check for each knob of Azure's evidence, as data. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

from trusted.attestation.azure_claims import AzureClaims
from trusted.attestation.policies import quote_checks, snp_checks
from trusted.attestation.policies.azure_vtpm import AzureVtpmPolicy
from trusted.attestation.policies.check import (
    ASK_MORE,
    Check,
    Finding,
    KnobCheck,
    Subject,
    Verdict,
    assurance,
    finding,
    measurements,
    names,
    on_off,
    permitted,
)
from trusted.attestation.policies.pcr_rules import EventLogRule, PcrRule, RestartRule
from trusted.attestation.policies.rules import Demand, Permission, Skip
from trusted.attestation.policies.snp import SnpPolicy
from trusted.errors import Reason


def _claims(subject: Subject) -> AzureClaims:
    if not isinstance(subject.claims, AzureClaims):
        raise TypeError("Azure claims expected")
    return subject.claims


def _pcrs(subject: Subject, rule: PcrRule) -> Finding:
    return quote_checks.pcrs(_claims(subject).quote, rule)


def _event_log(subject: Subject, rule: EventLogRule) -> Finding:
    return quote_checks.event_log(_claims(subject).quote, rule)


def _snp(subject: Subject, policy: SnpPolicy) -> Finding:
    """Every check of the SNP policy, on the report below. Its reason is that of the first which fails."""
    inner = replace(subject, claims=_claims(subject).snp)
    failed: list[tuple[str, Reason]] = []
    for knob in policy.KNOBS:
        check, value = snp_checks.KNOB_CHECKS[knob.name], getattr(policy, knob.name)
        found = snp_checks.skipped(inner, knob.name) if isinstance(value, Skip) else check.look(inner, value)
        if found is not None and found.verdict is Verdict.FAIL:
            failed.append((f"{knob.name}: {found.actual}, {found.expected} expected", found.reason or check.reason))
    skipped = [knob.name for knob in policy.KNOBS if isinstance(getattr(policy, knob.name), Skip)]
    expected = f"the policy's {len(policy.KNOBS)} knobs of snp; not checked: {names(skipped)}"
    if not failed:
        return finding(True, expected, "all hold")
    return Finding(expected, "; ".join(text for text, _ in failed), Verdict.FAIL, failed[0][1])


def _secure_boot(subject: Subject, demand: Demand) -> Finding:
    on = _claims(subject).configuration.secure_boot
    return finding(on or demand is Demand.ANY, "on" if demand is Demand.REQUIRE else "on or off", on_off(on))


def _console(subject: Subject, permission: Permission) -> Finding:
    on = _claims(subject).configuration.console_enabled
    return permitted(permission, on, "off", on_off(on))


def _fresh_report(subject: Subject, demand: Demand) -> Finding:
    fresh = _claims(subject).fresh_report
    actual = "over this nonce" if fresh else "over the vTPM's key alone"
    return finding(fresh or demand is Demand.ANY, "over this nonce" + (" or not" * (demand is Demand.ANY)), actual)


def _restarts(subject: Subject, rule: RestartRule) -> Finding:
    quote = _claims(subject).quote
    holds = quote.reset_count <= rule.max_resets and quote.restart_count <= rule.max_restarts
    expected = f"at most {rule.max_resets} resets and {rule.max_restarts} restarts"
    return finding(holds, expected, f"{quote.reset_count} resets, {quote.restart_count} restarts")


def _vm_ids(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    vm_id = _claims(subject).configuration.vm_id
    return finding(vm_id in allowed, f"one of {len(allowed)} machines", vm_id)


_BOOT_AGAIN = "boot the released image with the released configuration"
_CREATE_AGAIN = "create the machine again with the settings that the charter asks for"

# In the order of policies.azure_vtpm.KNOBS.
KNOB_CHECKS: Mapping[str, KnobCheck] = MappingProxyType(
    {
        "pcrs": KnobCheck(
            _pcrs,
            Reason.RUNTIME_MEASUREMENT,
            "quote exactly the PCRs that the charter names; if a value differs, " + _BOOT_AGAIN,
        ),
        "measurements": KnobCheck(measurements, Reason.MEASUREMENT, _BOOT_AGAIN),
        "event_log": KnobCheck(
            _event_log,
            Reason.RUNTIME_MEASUREMENT,
            "send the event log of this boot (binary_bios_measurements), or name only PCRs that it covers",
        ),
        "snp": KnobCheck(
            _snp, Reason.MEASUREMENT, "use a machine that meets the SNP part; paravisor and firmware are Microsoft's"
        ),
        "secure_boot": KnobCheck(_secure_boot, Reason.PLATFORM_INFO, _CREATE_AGAIN),
        "console": KnobCheck(_console, Reason.DEBUG, _CREATE_AGAIN),
        "fresh_report": KnobCheck(
            _fresh_report,
            Reason.REPORT_DATA,
            "write the user data index before reading the report, and wait until the report shows it",
        ),
        "restarts": KnobCheck(
            _restarts, Reason.PLATFORM_INFO, "the machine was started more often than agreed: ask its operator why"
        ),
        "vm_ids": KnobCheck(
            _vm_ids, Reason.HARDWARE_NOT_ALLOWED, "have the members list the machine in the charter, if they know it"
        ),
        "assurance": KnobCheck(assurance, Reason.ASSURANCE, ASK_MORE),
    }
)


def always(subject: Subject) -> Iterator[Check]:
    """What no knob allows on the SNP report below either."""
    return snp_checks.always(replace(subject, claims=_claims(subject).snp))


def expiries(claims: AzureClaims, policy: AzureVtpmPolicy) -> Iterator[datetime]:
    """When what the SNP policy stands on runs out."""
    yield from snp_checks.expiries(claims.snp, policy.snp)
    for reference in policy.snp.measurements:
        if reference.value == claims.snp.measurement and reference.until is not None:
            yield reference.until
