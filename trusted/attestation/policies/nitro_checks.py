"""One check for each knob of Nitro Enclaves, as data. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType

from trusted.attestation.binding import short_nonce
from trusted.attestation.nitro_claims import NitroClaims
from trusted.attestation.policies.check import (
    ASK_MORE,
    Finding,
    KnobCheck,
    Subject,
    assurance,
    finding,
    measurements,
    on_off,
    permitted,
)
from trusted.attestation.policies.rules import Demand, Permission, write_time
from trusted.errors import Reason


def _claims(subject: Subject) -> NitroClaims:
    if not isinstance(subject.claims, NitroClaims):
        raise TypeError("Nitro claims expected")
    return subject.claims


def _debug(subject: Subject, permission: Permission) -> Finding:
    return permitted(permission, _claims(subject).debug, "off", on_off(_claims(subject).debug))


def _pcr(index: int) -> Callable[[Subject, tuple[bytes, ...]], Finding]:
    def look(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
        value = _claims(subject).pcr(index)
        return finding(value in allowed, f"one of {len(allowed)} values", value.hex() or "absent")

    return look


def _nonce(subject: Subject, demand: Demand) -> Finding:
    """The nonce field says nothing that ``user_data`` does not say; but what stands there must not be another's."""
    claims = _claims(subject)
    wanted = short_nonce(claims.report_data).hex() if claims.report_data else "none: there is no report data"
    actual = "absent" if claims.nonce is None else claims.nonce.hex()
    if claims.nonce is None and demand is Demand.ANY:
        return finding(True, f"{wanted}, or absent", actual)
    return finding(actual == wanted, wanted, actual)


def _maximum_age_s(subject: Subject, maximum_s: int) -> Finding:
    """Either way: a document from the future means that a clock is wrong, ours or theirs."""
    timestamp = _claims(subject).timestamp
    holds = abs(subject.now - timestamp) <= timedelta(seconds=maximum_s)
    return finding(holds, f"within {maximum_s} s of {write_time(subject.now)}", write_time(timestamp))


def _instances(subject: Subject, allowed: tuple[str, ...]) -> Finding:
    instance = _claims(subject).instance_id
    return finding(instance in allowed, f"one of {len(allowed)} instances", instance)


def _denied_instances(subject: Subject, denied: tuple[str, ...]) -> Finding:
    instance = _claims(subject).instance_id
    return finding(instance not in denied, f"none of {len(denied)} instances", instance)


_REBUILD = "run the released image, or have the members sign a new measurement"
_ATTEST_AGAIN = "attest anew for this session"

# In the order of policy.KNOBS.
KNOB_CHECKS: Mapping[str, KnobCheck] = MappingProxyType(
    {
        "measurements": KnobCheck(measurements, Reason.MEASUREMENT, _REBUILD),
        "debug": KnobCheck(_debug, Reason.DEBUG, "start the enclave without --debug-mode"),
        "pcr1": KnobCheck(_pcr(1), Reason.RUNTIME_MEASUREMENT, _REBUILD),
        "pcr2": KnobCheck(_pcr(2), Reason.RUNTIME_MEASUREMENT, _REBUILD),
        "pcr3": KnobCheck(
            _pcr(3), Reason.RUNTIME_MEASUREMENT, "give the parent instance the IAM role that the charter names"
        ),
        "pcr4": KnobCheck(_pcr(4), Reason.RUNTIME_MEASUREMENT, "use the parent instance that the charter names"),
        "pcr8": KnobCheck(_pcr(8), Reason.ID_KEY, "sign the image with the certificate that the charter names"),
        "nonce": KnobCheck(_nonce, Reason.REPORT_DATA, _ATTEST_AGAIN),
        "maximum_age_s": KnobCheck(
            _maximum_age_s, Reason.EVIDENCE_AGE, "attest anew, and compare the verifier's clock with the time"
        ),
        "instances": KnobCheck(
            _instances, Reason.HARDWARE_NOT_ALLOWED, "have the members list the instance, if they know whose it is"
        ),
        "denied_instances": KnobCheck(_denied_instances, Reason.HARDWARE_NOT_ALLOWED, "use another instance"),
        "assurance": KnobCheck(assurance, Reason.ASSURANCE, ASK_MORE),
    }
)
