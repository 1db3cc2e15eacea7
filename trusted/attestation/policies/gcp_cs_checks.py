"""One check for each knob of Confidential Space, as data, and what no knob can switch off. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType

from trusted.attestation.formats.gcp_token import TokenClaims
from trusted.attestation.gcp_claims import GcpClaims
from trusted.attestation.policies.check import (
    ASK_PROVIDER,
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
from trusted.attestation.policies.gcp_cs import GcpCsPolicy
from trusted.attestation.policies.rules import Demand, Permission, Skip
from trusted.errors import Reason

_SOFTWARE = "CONFIDENTIAL_SPACE"


def _token(subject: Subject) -> TokenClaims:
    if not isinstance(subject.claims, GcpClaims):
        raise TypeError("Confidential Space claims expected")
    return subject.claims.token


def _hardware(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    hardware = _token(subject).hardware
    return finding(hardware in allowed, f"one of {names(allowed)}", hardware)


def _audience(subject: Subject, expected: str) -> Finding:
    return finding(_token(subject).audience == expected, expected, _token(subject).audience)


def _debug(subject: Subject, permission: Permission) -> Finding:
    return permitted(permission, _token(subject).debug, "off", on_off(_token(subject).debug))


def _secure_boot(subject: Subject, demand: Demand) -> Finding:
    on = _token(subject).secure_boot
    return finding(on or demand is Demand.ANY, "on" if demand is Demand.REQUIRE else "on or off", on_off(on))


def _minimum_version(subject: Subject, minimum: int) -> Finding:
    return finding(_token(subject).version >= minimum, f"at least {minimum}", str(_token(subject).version))


def _support(subject: Subject, wanted: tuple[str, ...]) -> Finding:
    support = _token(subject).support
    return finding(not support.isdisjoint(wanted), f"one of {names(wanted)}", names(support))


def _arguments(subject: Subject, expected: tuple[str, ...]) -> Finding:
    actual = _token(subject).container.arguments
    return finding(actual == expected, f"the {len(expected)} listed arguments", f"{len(actual)} arguments")


def _environment(subject: Subject, expected: tuple[tuple[str, str], ...]) -> Finding:
    """Only names are shown: members put secrets into variables, whatever they are told."""
    actual = _token(subject).container.environment
    shown = names([name for name, _ in actual])
    return finding(actual == tuple(sorted(expected)), f"the {len(expected)} listed variables", f"set: {shown}")


def _command(subject: Subject, permission: Permission) -> Finding:
    replaced = bool(_token(subject).container.command)
    return permitted(permission, replaced, "the image's own", "another" if replaced else "the image's own")


def _monitoring(subject: Subject, permission: Permission) -> Finding:
    return permitted(permission, _token(subject).monitoring, "off", on_off(_token(subject).monitoring))


def _projects(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    return finding(_token(subject).project in allowed, f"one of {names(allowed)}", _token(subject).project)


def _instances(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    return finding(_token(subject).instance in allowed, f"one of {len(allowed)} machines", _token(subject).instance)


def _denied_instances(subject: Subject, denied: tuple[str, ...]) -> Finding:
    return finding(_token(subject).instance not in denied, f"none of {len(denied)} machines", _token(subject).instance)


def _max_age_s(subject: Subject, limit: int) -> Finding:
    age = subject.now - _token(subject).issued
    return finding(age <= timedelta(seconds=limit), f"at most {limit} s", f"{age.total_seconds():.0f} s")


_START_AGAIN = "start the workload again with the options that the charter asks for"
_RELEASED_LAUNCHER = "use the current production image of Confidential Space"

# In the order of policies.gcp_cs.KNOBS.
KNOB_CHECKS: Mapping[str, KnobCheck] = MappingProxyType(
    {
        "hardware": KnobCheck(_hardware, Reason.PRODUCT, "use a kind of machine that the charter lists"),
        "measurements": KnobCheck(
            measurements, Reason.MEASUREMENT, "run the released image, or have the members sign a new digest"
        ),
        "audience": KnobCheck(_audience, Reason.GUEST_POLICY, "ask the launcher for a token with this audience"),
        "debug": KnobCheck(_debug, Reason.DEBUG, _RELEASED_LAUNCHER),
        "secure_boot": KnobCheck(_secure_boot, Reason.PLATFORM_INFO, "create the machine again with secure boot"),
        "minimum_version": KnobCheck(_minimum_version, Reason.FIRMWARE_VERSION, _RELEASED_LAUNCHER),
        "support": KnobCheck(_support, Reason.FIRMWARE_VERSION, _RELEASED_LAUNCHER),
        "arguments": KnobCheck(_arguments, Reason.GUEST_POLICY, _START_AGAIN),
        "environment": KnobCheck(_environment, Reason.GUEST_POLICY, _START_AGAIN),
        "command": KnobCheck(_command, Reason.GUEST_POLICY, _START_AGAIN),
        "monitoring": KnobCheck(_monitoring, Reason.GUEST_POLICY, _START_AGAIN),
        "projects": KnobCheck(
            _projects, Reason.HARDWARE_NOT_ALLOWED, "have the members list the project in the charter, if it is theirs"
        ),
        "instances": KnobCheck(
            _instances, Reason.HARDWARE_NOT_ALLOWED, "have the members list the machine in the charter"
        ),
        "denied_instances": KnobCheck(_denied_instances, Reason.HARDWARE_NOT_ALLOWED, "use another machine"),
        "max_age_s": KnobCheck(_max_age_s, Reason.CERT_EXPIRED, "ask the launcher for a new token"),
        "assurance": KnobCheck(
            assurance,
            Reason.ASSURANCE,
            ASK_PROVIDER,
        ),
    }
)


def always(subject: Subject) -> Iterator[Check]:
    """What no knob allows: a plain machine's token, whose container nobody measured."""
    software = _token(subject).software
    verdict = Verdict.PASS if software == _SOFTWARE else Verdict.FAIL
    yield Check("software", _SOFTWARE, software, verdict, Reason.GUEST_POLICY, _RELEASED_LAUNCHER)


def expiries(claims: GcpClaims, policy: GcpCsPolicy) -> Iterator[datetime]:
    """When the token becomes older than the policy allows."""
    if not isinstance(policy.max_age_s, Skip):
        yield claims.token.issued + timedelta(seconds=policy.max_age_s)
