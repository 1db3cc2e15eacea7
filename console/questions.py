"""What evidence is held against, from the options that a person gives. Trust zone: a member's machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from console.charters import read_roots
from console.explaining import Question
from console.files import read_bounded
from console.moment import read_moment
from console.output import UserError
from trusted.attestation.binding import host_data
from trusted.attestation.products import PRODUCTS
from trusted.attestation.roots import VENDOR_ROOTS, TrustRoot
from trusted.documents.charter import VerifiedCharter, verify_charter
from trusted.documents.dsse import MAX_ENVELOPE_BYTES
from trusted.documents.plan import verify_plan
from trusted.evidence.boot import Role

_NONCE = re.compile(r"[0-9a-fA-F]{16,128}")
_REPORT_DATA = re.compile(r"[0-9a-fA-F]{128}")


@dataclass(frozen=True, slots=True)
class Papers:
    """The files to appraise under; each may be absent."""

    charter: Path | None
    plan: Path | None
    role: Role | None


def make_question(papers: Papers, software_roots: Sequence[str], report_data: str, at: str) -> Question:
    """The question in these options; a charter and a plan are verified as of the same time as the evidence.

    Raises:
        UserError: options that do not go together, or do not read.
        OSError, ProtocolError: charter or plan cannot be read, or do not hold at that time.
    """
    moment = read_moment(at)
    expected = read_report_data(report_data) if report_data else None
    if papers.charter is None:
        if papers.role is not None or papers.plan is not None:
            raise UserError("--role and --plan mean nothing without --charter", "Add --charter, or leave them away.")
        return Question(_roots(software_roots), None, expected, None, moment)
    if software_roots:
        raise UserError("--software-root and --charter", "The charter names the roots: leave --software-root away.")
    if papers.role is None:
        raise UserError(
            "--charter needs --role", "Add --role aggregator, worker or recipient: each has its own policy."
        )
    charter = verify_charter(read_bounded(papers.charter, MAX_ENVELOPE_BYTES), moment)
    document = charter.document
    policy = document.policies.get(papers.role.value)
    if policy is None:
        hint = "Its members have to sign a new version that says what it must prove."
        raise UserError(f"the charter has no policy for the role {papers.role.value}", hint)
    return Question(document.roots, policy, expected, _host_data(papers, charter, moment), moment)


def read_report_data(text: str) -> bytes:
    """The 64 bytes that ``text`` spells.

    Raises:
        UserError: it spells something else.
    """
    if not _REPORT_DATA.fullmatch(text):
        hint = "Give exactly the SHA-512 that the session asked for: docs/protocol.md, section 3.2."
        raise UserError("--report-data is not 64 bytes of hexadecimal", hint)
    return bytes.fromhex(text)


def read_nonce(text: str) -> bytes:
    """The 8 to 64 bytes that ``text`` spells.

    Raises:
        UserError: it spells something else.
    """
    if not _NONCE.fullmatch(text) or len(text) % 2:
        raise UserError("--nonce is not 8 to 64 bytes of hexadecimal", "Give the question that was asked.")
    return bytes.fromhex(text)


def _host_data(papers: Papers, charter: VerifiedCharter, moment: datetime) -> bytes | None:
    if papers.plan is None or papers.role is None:
        return None
    plan = verify_plan(read_bounded(papers.plan, MAX_ENVELOPE_BYTES), charter, moment)
    return host_data(papers.role.value, charter.digest, plan.digest)


def _roots(software_roots: Sequence[str]) -> tuple[TrustRoot, ...]:
    """The vendor's pinned roots, and any software root for whichever product its evidence claims."""
    vendor = tuple(root for roots in VENDOR_ROOTS.values() for root in roots)
    if not software_roots:
        return vendor
    return (*vendor, *(root for product in PRODUCTS for root in read_roots((), software_roots, product, tpms=True)))
