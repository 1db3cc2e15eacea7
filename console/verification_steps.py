"""The steps of a verification, and which of them failed. Trust zone: a member's machine.

``trusted.attestation.verify`` refuses with a reason; here the reason becomes the step, for people, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum, unique
from types import MappingProxyType

from console.explained_rows import NOTHING, Row, Standing
from trusted.errors import AttestationError, Reason


@unique
class Step(Enum):
    """The steps of a verification, in their order, in words for people."""

    FORM = "report and certificates are well formed"
    ROOT = "the chain ends in a trusted root"
    CERTIFICATES = "the certificates' signatures and dates hold"
    SIGNATURE = "the chip's key signed the report"
    BINDING = "that key belongs to this chip and TCB"


# Where a verification fails, by its reason, as trusted/attestation/verify orders its steps.
_STEPS: Mapping[Reason, Step] = MappingProxyType(
    {
        Reason.TRUST_ANCHOR: Step.ROOT,
        Reason.CHAIN: Step.CERTIFICATES,
        Reason.CERT_EXPIRED: Step.CERTIFICATES,
        Reason.CERT_NOT_YET_VALID: Step.CERTIFICATES,
        Reason.REVOKED: Step.CERTIFICATES,
        Reason.EVIDENCE_SIGNATURE: Step.SIGNATURE,
        Reason.KEY_BINDING: Step.BINDING,
        Reason.TCB_BINDING: Step.BINDING,
        Reason.CHIP_BINDING: Step.BINDING,
    }
)
_REMEDY_OF_FORM = "collect the evidence anew: these bytes are damaged, cut, or no SNP report of a known version"
_FETCH_CERTIFICATES = "fetch this chip's certificates anew from the vendor, for the TCB that the report names"
_REMEDIES: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.TRUST_ANCHOR: "use a vendor's machine, or name the software root in the charter or with --software-root",
        Reason.PRODUCT: "give the certificates of this processor generation; is the release too old for a new one?",
        Reason.CHAIN: "give the chip's certificate with the ASK and ARK that issued it, unchanged",
        Reason.CERT_EXPIRED: "fetch the certificates anew and check the clock; for old evidence, use --at",
        Reason.CERT_NOT_YET_VALID: "check the clock, or the time given with --at",
        Reason.REVOKED: "the vendor withdrew this key: do not trust the machine",
        Reason.EVIDENCE_SIGNATURE: "give the certificate of the chip that made this report, or it was altered",
        Reason.KEY_BINDING: _FETCH_CERTIFICATES,
        Reason.TCB_BINDING: _FETCH_CERTIFICATES,
        Reason.CHIP_BINDING: _FETCH_CERTIFICATES,
        Reason.VMPL: "ask for the report from inside the guest, not from its host",
    }
)


def step_of(error: AttestationError) -> Step:
    """The step that ended with ``error``, for evidence whose report parses."""
    field = error.detail.partition(":")[0]
    if field == "certificates":  # how many there are is looked at before any of them
        return Step.FORM
    if error.reason is Reason.PRODUCT:
        return Step.BINDING if field == "CEK" else Step.ROOT
    return _STEPS.get(error.reason, Step.FORM)


def failed_at(failed: Step, error: AttestationError) -> Iterator[Row]:
    """One row for each step. A key of the wrong kind is found before the signature, a wrong extension after it: then
    the signature is not claimed to have passed."""
    steps = list(Step)
    unsure = {Step.SIGNATURE} if error.reason is Reason.KEY_BINDING else set()
    for step in steps:
        if step is failed:
            remedy = _REMEDIES.get(error.reason, _REMEDY_OF_FORM)
            yield Row(step.value, "holds", error.detail, Standing.FAIL, error.reason, remedy)
        elif steps.index(step) < steps.index(failed) and step not in unsure:
            yield Row(step.value, "holds", "holds", Standing.PASS)
        else:
            yield Row(step.value, "holds", NOTHING, Standing.NOT_CHECKED)
