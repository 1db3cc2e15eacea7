"""Signed attestation results: made from an explanation, verified, listed. Trust zone: a member's machine.

A host stores them and may withhold or repeat any; it cannot make one. The key that verifies them is the appraiser's
own: an aggregator's stands in its release with its evidence, and in the log of every worker that admitted it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from console.explaining import Conclusion, Explanation, Question
from console.opening import fetch_release
from console.ordering import Desk
from console.output import UserError
from console.running import protection_in_words
from trusted.attestation.appraise import Expected, appraise
from trusted.attestation.ear import RELEASE, Appraiser, Grant, VerifiedEar, open_ear, sign_ear
from trusted.attestation.policies.rules import write_time
from trusted.channel.results import worker_subject
from trusted.documents.charter import VerifiedCharter
from trusted.errors import AttestationError, ProtocolError, Reason


@dataclass(frozen=True, slots=True)
class Listed:
    """One event with a result: what its token says, or why it proves nothing."""

    number: int
    member: str
    found: VerifiedEar | ProtocolError


def sign_explained(explanation: Explanation, question: Question, key: Ed25519PrivateKey) -> str:
    """The token for evidence that met a charter's policy, bound to what was asked for.

    Raises:
        UserError: it did not, or nobody said which session the evidence was to be for.
    """
    verified, policy, report_data = explanation.verified, question.policy, question.report_data
    if explanation.conclusion is not Conclusion.AFFIRMING or verified is None or policy is None:
        hint = "Only evidence that meets a charter's policy is signed: see `cloister attest explain`."
        raise UserError("--sign: nothing was signed, the verdict is not affirming", hint)
    if explanation.unbound or report_data is None:
        hint = "Give --report-data, --role and --plan: a signed result of evidence that may be replayed proves nothing."
        raise UserError("--sign: nothing was signed, the evidence is bound to no session", hint)
    expected = Expected(report_data, question.host_data or bytes(32))
    result = appraise(verified, policy.for_format(verified.claims.format), expected, question.at)
    return sign_ear(result, Grant("", report_data), Appraiser(RELEASE, key))


def listed_results(desk: Desk, key: bytes | None) -> Iterator[Listed]:
    """Every result that the host tells of, each opened with ``key`` (32 bytes; None: the key that the release proves).

    Raises:
        UserError: no key, and nothing has been released yet. ProtocolError: the host is out of reach, or lies.
    """
    known = key if key is not None else fetch_release(desk).release.verify_key
    for event in desk.client.recorded(desk.plan.digest):
        token, member = event.fields.get("ear"), str(event.fields.get("member", ""))
        if token is not None:
            yield Listed(event.number, member, _opened(str(token), known, worker_subject(desk.plan.digest, member)))


def _opened(token: str, key: bytes, subject: str) -> VerifiedEar | ProtocolError:
    try:
        ear = open_ear(token, key)
        if ear.subject != subject:
            raise AttestationError(Reason.KEY_BINDING, "EAR.sub: about another plan or member than the event says")
    except ProtocolError as error:
        return error
    return ear


def ear_json(ear: VerifiedEar) -> dict[str, Any]:
    """For programs; the conclusions of each part as the appraiser wrote them."""
    return {
        "subject": ear.subject,
        "build": ear.build,
        "nonce": ear.nonce.hex(),
        "issued": write_time(ear.issued),
        "expires": write_time(ear.expires),
        "status": ear.status.value,
        "parts": {
            part.name: dict(part.conclusions)
            | {"policy": part.policy_digest.hex(), "status": part.status.value, "vector": part.vector.to_json()}
            for part in ear.parts
        },
    }


def ear_rows(ear: VerifiedEar) -> list[tuple[str, str]]:
    """For people."""
    rows = [
        ("about", ear.subject or "evidence in a file"),
        ("admitted", f"{write_time(ear.issued)}, until {write_time(ear.expires)}"),
        ("status", ear.status.value),
    ]
    for part in ear.parts:
        said = part.conclusions
        rows.append((part.name, f"{said.get('product')}, assurance {said.get('assurance')}"))
        rows.append(("  measurement", str(said.get("measurement"))))
        rows.append(("  policy", part.policy_digest.hex()))
    return rows


def under_charter(ear: VerifiedEar, charter: VerifiedCharter) -> str:
    """Whether the CPU was held against the policy that the charter has for workers: ``yes``, or ``no``."""
    digests = {policy.digest for policy in charter.document.worker.platforms.values()}
    return "yes" if ear.parts[0].policy_digest in digests else "no"


def protection(ear: VerifiedEar) -> str:
    """What stood behind the CPU's evidence, in words."""
    return protection_in_words(str(ear.parts[0].conclusions.get("assurance")))


def until(ear: VerifiedEar, now: datetime) -> str:
    """When the grant ends or ended."""
    return f"{'until' if now <= ear.expires else 'was until'} {write_time(ear.expires)}"
