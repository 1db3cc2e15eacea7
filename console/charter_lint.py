"""What is weak about a charter, in plain words. Trust zone: the member's own machine. Pure: no file, no clock.

A charter that reads is not yet a good one: it may skip what matters, trust a whole generation of broken chips, or hang
on one vendor. Nothing here refuses anything; the members decide. ``charter explain`` says what it means, this what is
to be minded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, unique
from types import MappingProxyType
from typing import Any

from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.platforms import PLATFORMS
from trusted.attestation.policies.knob import KnobbedPolicy, PlatformPolicy
from trusted.attestation.policies.pcr_rules import PcrRule
from trusted.attestation.policies.rules import Demand, Permission, Skip
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.roots import Assurance
from trusted.documents.charter import Charter, Profile
from trusted.errors import Reason

_LONG_VALIDITY = timedelta(days=400)
_LONG_LIST_AGE_DAYS = 400
_RESETTABLE = frozenset({16, 23})  # by any software (TCG PC Client Platform TPM Profile, PCR attributes)


@unique
class Severity(Enum):
    """How much a weakness opens; the last is the worst."""

    NOTE = "note"
    WARNING = "warning"
    SEVERE = "severe"

    @property
    def rank(self) -> int:
        """0 for a note; higher is worse."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Weakness:
    """One weak point.

    Attributes:
        rule: a stable name, for programs.
        severity: how much it opens.
        path: the field.
        opens: what somebody can do because of it.
        remedy: what would close it.
    """

    rule: str
    severity: Severity
    path: str
    opens: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        """For programs."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "path": self.path,
            "opens": self.opens,
            "remedy": self.remedy,
        }


def lint(charter: Charter) -> list[Weakness]:
    """Every weakness of ``charter``, the worst first."""
    found = [*_frame(charter), *_roots(charter)]
    for role, policy in charter.policies.items():
        for format, platform in _all_policies(policy).items():
            where = "devices." if format not in policy.platforms else ""
            found.extend(_policy(format, platform, f"{role}.{where}{format.value}"))
            found.extend(_unrooted(charter, format, f"{role}.{where}{format.value}"))
        found.extend(_tpm_alone(policy, role))
    found.extend(_same_measurements(charter))
    return sorted(found, key=lambda weakness: -weakness.severity.rank)


def _all_policies(policy: AppraisalPolicy) -> Mapping[EvidenceFormat, PlatformPolicy]:
    return {**policy.platforms, **{format: rule.policy for format, rule in policy.devices.items()}}


def _frame(charter: Charter) -> Iterator[Weakness]:
    """Profile, validity and thresholds."""
    if charter.profile is Profile.DEVELOPMENT:
        yield Weakness(
            "development-profile",
            Severity.SEVERE,
            "profile",
            "software may stand in for hardware: whoever runs a machine can read all that is on it",
            "use profile production before any real data is touched",
        )
    if charter.validity.not_after - charter.validity.not_before > _LONG_VALIDITY:
        yield Weakness(
            "long-validity",
            Severity.WARNING,
            "not_after",
            "measurements, floors and members stay as they are for more than a year, whatever becomes known meanwhile",
            "let it hold for a year at most, and have the members renew it",
        )
    members = len(charter.members)
    for name, threshold in charter.thresholds.to_json().items():
        if threshold == members // 2 + 1 and members > 2:
            yield Weakness(
                "bare-majority",
                Severity.NOTE,
                f"thresholds.{name}",
                f"{threshold} of {members} members decide for all; a member's own data still needs its own signature",
                "ask for more than a bare majority",
            )
        if threshold == members:
            yield Weakness(
                "unanimity",
                Severity.NOTE,
                f"thresholds.{name}",
                "one lost key, or one member that does not answer, stops every change, a revocation too",
                "ask for one fewer, or give each member a second key",
            )
    if any(len(member.signing_keys) == 1 for member in charter.members):
        yield Weakness(
            "single-keys",
            Severity.NOTE,
            "members",
            "a member with one signing key that loses it can approve nothing, not even its new key",
            "give each member a second key, kept elsewhere",
        )


def _roots(charter: Charter) -> Iterator[Weakness]:
    for place, root in enumerate(charter.roots):
        if root.assurance is Assurance.NONE:
            yield Weakness(
                "software-root",
                Severity.SEVERE,
                f"roots[{place}]",
                "whoever holds this root's key can make evidence of anything: NO HARDWARE PROTECTION",
                "name the vendors' roots alone",
            )
    vendors = {_VENDORS[root.format] for root in charter.roots if root.format in _VENDORS}
    if len(vendors) == 1:
        yield Weakness(
            "single-vendor",
            Severity.NOTE,
            "roots",
            f"a broken key or processor of {next(iter(vendors))} opens every site and the aggregator on the same day",
            "admit platforms of a second vendor, for the aggregator at least as an alternative",
        )


_VENDORS = MappingProxyType(
    {
        EvidenceFormat.SNP: "AMD",
        EvidenceFormat.TDX: "Intel",
        EvidenceFormat.SGX: "Intel",
        EvidenceFormat.NITRO: "Amazon",
        EvidenceFormat.CCA: "an Arm licensee",
        EvidenceFormat.AZURE_VTPM: "AMD",
        EvidenceFormat.GCP_CS: "Google",
    }
)


def _tpm_alone(policy: AppraisalPolicy, role: str) -> Iterator[Weakness]:
    if EvidenceFormat.TPM in policy.platforms:
        yield Weakness(
            "tpm-alone",
            Severity.WARNING,
            f"{role}.tpm",
            "a TPM says what was booted and protects no memory: whoever runs the machine can read all that is on it",
            "admit a TEE, and ask for the TPM beside it, under devices",
        )


def _unrooted(charter: Charter, format: EvidenceFormat, path: str) -> Iterator[Weakness]:
    if not any(root.format is format for root in charter.roots):
        yield Weakness(
            "no-root",
            Severity.NOTE,
            path,
            "nothing, but nobody on this platform can be admitted either: the charter names no root for it",
            "name the vendor's root, or leave the platform out",
        )


def _same_measurements(charter: Charter) -> Iterator[Weakness]:
    for format, policy in charter.aggregator.platforms.items():
        other = charter.worker.platforms.get(format)
        mine, theirs = (_measurements(item) for item in (policy, other))
        if mine & theirs:
            yield Weakness(
                "same-measurement",
                Severity.WARNING,
                f"aggregator.{format.value}.measurements",
                "the same code may be aggregator and worker, so only its launch configuration tells them apart",
                "give each role the measurement of its own image",
            )


def _measurements(policy: PlatformPolicy | None) -> set[bytes]:
    references = getattr(policy, "measurements", ())
    return set() if isinstance(references, Skip) else {reference.value for reference in references}


def _policy(format: EvidenceFormat, policy: PlatformPolicy, path: str) -> Iterator[Weakness]:
    checks = PLATFORMS[format].checks
    for knob in policy.KNOBS:
        value = getattr(policy, knob.name)
        where = f"{path}.{knob.name}"
        if isinstance(value, Skip):
            covered = any(_covers(policy, other.name, checks[knob.name].reason) for other in policy.KNOBS)
            yield _skipped(checks[knob.name].reason, value, where, covered=covered)
        elif value is Permission.ALLOW:
            yield from _allowed(checks[knob.name].reason, where)
        elif isinstance(value, KnobbedPolicy):  # a platform on top of another one
            yield from _policy(_format_of(value), value, where)
        else:
            yield from _value(knob.name, value, where)
    yield from _milan(policy, path)
    yield from _possession(policy, path)
    yield from _asked_possession(policy, path)


def _asked_possession(policy: PlatformPolicy, path: str) -> Iterator[Weakness]:
    """What ``assurance`` asks for, against the list that it would stand on."""
    machines, asked = PLATFORMS[_format_of(policy)].machines, getattr(policy, "assurance", Assurance.NONE)
    listed = bool(machines) and getattr(policy, machines) != () and not isinstance(getattr(policy, machines), Skip)
    if asked is Assurance.HARDWARE and machines:
        yield Weakness(
            "no-possession",
            Severity.NOTE,
            f"{path}.assurance",
            "nobody vouches for where the machine stands: any genuine one of the vendor's is as good as a member's",
            "write possession" if listed else f"list the members' machines in {machines} and ask for possession",
        )
    if asked is Assurance.POSSESSION and not listed:
        yield Weakness(
            "no-list-to-possess",
            Severity.WARNING,
            f"{path}.assurance",
            "nobody: possession is asked for, and no machine is listed",
            f"list machines in {machines}" if machines else "ask for hardware: this platform has no list of machines",
        )


def _covers(policy: PlatformPolicy, name: str, reason: Reason) -> bool:
    """Whether this knob holds the measurement in another one's place."""
    if reason is not Reason.MEASUREMENT or PLATFORMS[_format_of(policy)].checks[name].reason is not reason:
        return False
    return not isinstance(getattr(policy, name), Skip) and getattr(policy, name) is not Demand.ANY


def _format_of(policy: PlatformPolicy | KnobbedPolicy) -> EvidenceFormat:
    return next(format for format, platform in PLATFORMS.items() if isinstance(policy, platform.policy))


# What a skipped knob lets in, by the reason for which its check refuses.
_OPENS: Mapping[Reason, tuple[Severity, str]] = MappingProxyType(
    {
        Reason.DEBUG: (Severity.SEVERE, "guests whose memory the host may read"),
        Reason.MIGRATABLE: (Severity.SEVERE, "guests that a migration agent may copy to another machine"),
        Reason.MEASUREMENT: (Severity.SEVERE, "whatever software somebody likes to run"),
        Reason.RUNTIME_MEASUREMENT: (Severity.WARNING, "software loaded after launch that nobody has listed"),
        Reason.TCB_FLOOR: (Severity.WARNING, "machines with old firmware, whose known holes let keys be read"),
        Reason.TCB_STATUS: (Severity.SEVERE, "machines that their own vendor calls out of date"),
        Reason.ADVISORY: (Severity.WARNING, "machines to which a published security advisory applies"),
        Reason.CRL_STALE: (Severity.WARNING, "keys that the vendor has revoked since, for nobody looks"),
        Reason.PROVISIONAL_FIRMWARE: (Severity.WARNING, "firmware that the operator can roll back after admission"),
        Reason.PRODUCT: (Severity.WARNING, "processor generations that the members have not thought about"),
        Reason.VMPL: (Severity.WARNING, "reports asked for by less privileged software inside the guest"),
        Reason.REPORT_VERSION: (Severity.WARNING, "old reports that do not say which product they come from"),
        Reason.PLATFORM_INFO: (Severity.WARNING, "machines whose memory was not checked for aliases (BadRAM)"),
        Reason.EVIDENCE_AGE: (Severity.WARNING, "evidence that was made long before it was asked for"),
        Reason.REPORT_DATA: (Severity.SEVERE, "evidence that was made for somebody else"),
        Reason.HARDWARE_NOT_ALLOWED: (Severity.WARNING, "any machine of the vendor, in whoever's hands it is"),
    }
)


# Knobs whose reason they share with others that are about something else.
_OPENS_OF_KNOB: Mapping[str, tuple[Severity, str]] = MappingProxyType(
    {"restarts": (Severity.NOTE, "a machine that was restarted any number of times, as what it booted shows anyway")}
)


def _skipped(reason: Reason, skip: Skip, path: str, *, covered: bool) -> Weakness:
    knob = path.rpartition(".")[2]
    severity, opens = _OPENS_OF_KNOB.get(knob) or _OPENS.get(
        reason, (Severity.NOTE, "evidence in which this says anything at all")
    )
    if covered:
        severity, opens = Severity.NOTE, "what another knob of the same kind lets in, and nothing more"
    remedy = "set a value, unless that reason is good enough for every member"
    return Weakness("skip", severity, path, f'not checked, because "{skip.why}". That lets in {opens}', remedy)


def _allowed(reason: Reason, path: str) -> Iterator[Weakness]:
    if reason in _OPENS:
        severity, opens = _OPENS[reason]
        yield Weakness("allow", severity, path, f"allowed: that lets in {opens}", "write refuse")


def _value(name: str, value: Any, path: str) -> Iterator[Weakness]:
    """Values that are set, and weak all the same."""
    if name == "assurance" and value is Assurance.NONE:
        yield Weakness(
            "no-assurance",
            Severity.SEVERE,
            path,
            "evidence that software made is as good as a processor's: NO HARDWARE PROTECTION",
            "write hardware",
        )
    if name == "assurance" and value is Assurance.PROVIDER:
        yield Weakness(
            "provider-word",
            Severity.WARNING,
            path,
            "a provider alone says what protects the memory, and whoever runs or compels it can say so of any machine",
            "where a silicon vendor's own evidence can be had, admit that instead",
        )
    if getattr(value, "max_age_days", 0) > _LONG_LIST_AGE_DAYS:
        yield Weakness(
            "old-revocation-list",
            Severity.WARNING,
            path,
            "a revocation list from before last year's revocations still counts as current",
            "ask for a list of at most a year",
        )
    if getattr(value, "grace_days", 0) > 0:
        yield Weakness(
            "grace",
            Severity.WARNING,
            path,
            f"for {value.grace_days} days after a fix, machines without it are admitted",
            "keep the grace as short as your sites need to update",
        )
    if name == "advisories" and value:
        yield Weakness(
            "advisories",
            Severity.NOTE,
            path,
            f"{len(value)} security advisories are accepted as harmless",
            "look at each again when the charter is renewed",
        )
    if isinstance(value, PcrRule) and _RESETTABLE & set(value.selection):
        yield Weakness(
            "resettable-pcrs",
            Severity.SEVERE,
            path,
            "PCRs 16 and 23 can be reset at any time, so they hold whatever the machine's operator likes",
            "select PCRs that only a restart clears (0 to 15)",
        )
    yield from _windows(name, value, path)
    yield from _providers(value, path)


def _windows(name: str, value: Any, path: str) -> Iterator[Weakness]:
    if name == "measurements" and len(value) > 2:
        yield Weakness(
            "many-measurements",
            Severity.NOTE,
            path,
            f"{len(value)} different images may run; a hole in any one of them is a hole in all",
            "let old ones end: give them an `until`",
        )


def _providers(value: Any, path: str) -> Iterator[Weakness]:
    for provider in getattr(value, "providers", ()):
        yield Weakness(
            "provider-keys",
            Severity.NOTE,
            path,
            f"a key of {provider} proves some machine of that provider, and never which one",
            "where a chip's own key can be had, leave providers empty",
        )


def _milan(policy: PlatformPolicy, path: str) -> Iterator[Weakness]:
    products = getattr(policy, "products", ())
    if isinstance(products, Skip) or "Milan" in products:
        yield Weakness(
            "milan",
            Severity.SEVERE if isinstance(getattr(policy, "chip_ids", ()), Skip) else Severity.WARNING,
            f"{path}.products",
            "the keys of Milan chips can be extracted in software, and with them evidence of any firmware be forged",
            "use Genoa or Turin; otherwise list the very chips in chip_ids, and only those whose owner you trust",
        )


# The knob with which a platform's policy names the machines that may take part.
_LISTS = ("chip_ids", "ppids", "instances", "device_ids", "keys", "vm_ids")


def _possession(policy: PlatformPolicy, path: str) -> Iterator[Weakness]:
    lists = [name for name in _LISTS if hasattr(policy, name)]
    if lists and all(isinstance(getattr(policy, name), Skip) for name in lists):
        yield Weakness(
            "no-machine-list",
            Severity.WARNING,
            f"{path}.{lists[0]}",
            "nobody vouches for who has the machine in hand: somebody with physical access to any genuine one can open "
            "its memory bus (TEE.fail, Battering RAM) and take part with what he read",
            f"list the members' own machines in {lists[0]}",
        )
