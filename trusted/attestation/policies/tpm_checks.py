"""One check for each knob of TPM 2.0 quotes, as data. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trusted.attestation.formats.tpm import Scheme
from trusted.attestation.policies import quote_checks
from trusted.attestation.policies.check import (
    ASK_PROVIDER,
    Finding,
    KnobCheck,
    Subject,
    assurance,
    finding,
    measurements,
)
from trusted.attestation.policies.pcr_rules import EventLogRule, PcrRule, RestartRule
from trusted.attestation.policies.rules import Demand
from trusted.attestation.tpm_claims import TpmClaims
from trusted.errors import Reason

_FIRMWARE_SHIFT = 32  # the maker's release stands in the upper half of the 64 bits


def _claims(subject: Subject) -> TpmClaims:
    if not isinstance(subject.claims, TpmClaims):
        raise TypeError("TPM claims expected")
    return subject.claims


def _pcrs(subject: Subject, rule: PcrRule) -> Finding:
    return quote_checks.pcrs(_claims(subject).quote, rule)


def _event_log(subject: Subject, rule: EventLogRule) -> Finding:
    return quote_checks.event_log(_claims(subject).quote, rule)


def _algorithms(subject: Subject, allowed: tuple[Scheme, ...]) -> Finding:
    scheme = _claims(subject).quote.scheme
    return finding(scheme in allowed, f"one of {', '.join(item.value for item in allowed)}", scheme.value)


def _minimum_firmware(subject: Subject, minimum: int) -> Finding:
    version = _claims(subject).quote.firmware_version >> _FIRMWARE_SHIFT
    return finding(version >= minimum, f"at least {minimum:#x}", f"{version:#x}")


def _restarts(subject: Subject, rule: RestartRule) -> Finding:
    quote = _claims(subject).quote
    holds = quote.reset_count <= rule.max_resets and quote.restart_count <= rule.max_restarts
    expected = f"at most {rule.max_resets} resets and {rule.max_restarts} restarts"
    return finding(holds, expected, f"{quote.reset_count} resets, {quote.restart_count} restarts")


def _clock_safe(subject: Subject, demand: Demand) -> Finding:
    safe = _claims(subject).quote.clock_safe
    return finding(safe or demand is Demand.ANY, "safe" if demand is Demand.REQUIRE else "safe or not", str(safe))


def _keys(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    key = _claims(subject).key_sha256
    return finding(key in allowed, f"one of {len(allowed)} keys", key.hex())


def _denied_keys(subject: Subject, denied: tuple[bytes, ...]) -> Finding:
    key = _claims(subject).key_sha256
    return finding(key not in denied, f"none of {len(denied)} keys", key.hex())


_BOOT_AGAIN = "boot the released image with the released configuration"

# In the order of policies.tpm.KNOBS.
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
        "algorithms": KnobCheck(
            _algorithms, Reason.KEY_BINDING, "make an attestation key of a listed kind, or change the charter"
        ),
        "minimum_firmware": KnobCheck(_minimum_firmware, Reason.FIRMWARE_VERSION, "update the TPM's firmware"),
        "restarts": KnobCheck(
            _restarts, Reason.PLATFORM_INFO, "the machine was started more often than agreed: ask its operator why"
        ),
        "clock_safe": KnobCheck(
            _clock_safe, Reason.PLATFORM_INFO, "shut the machine down in order once, then boot it again"
        ),
        "keys": KnobCheck(
            _keys,
            Reason.HARDWARE_NOT_ALLOWED,
            "have the members check the TPM by its endorsement key, then list its attestation key in the charter",
        ),
        "denied_keys": KnobCheck(_denied_keys, Reason.HARDWARE_NOT_ALLOWED, "use another machine"),
        "assurance": KnobCheck(
            assurance,
            Reason.ASSURANCE,
            ASK_PROVIDER,
        ),
    }
)
