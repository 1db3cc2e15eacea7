"""Document files: reading them, showing who signed, adding one signature. Trust zone: the member's own machine.

What is signed is shown first, from the very bytes that are signed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import typer

from console.files import read_bounded, write_file
from console.output import Report, UserError
from trusted.documents.charter import Charter, VerifiedCharter, verify_charter
from trusted.documents.dsse import (
    MAX_ENVELOPE_BYTES,
    Signer,
    UnverifiedEnvelope,
    new_envelope,
    open_envelope,
    raw_public_key,
    sign,
    signers,
)
from trusted.documents.plan import VerifiedPlan, verify_plan
from trusted.errors import DocumentError, Reason


@dataclass(frozen=True, slots=True)
class Signing:
    """How one signature is added: by whom, among which keys, and whether the person is asked first."""

    signer: Signer
    keys_by_member: Mapping[str, Sequence[bytes]]
    ask: bool


def present() -> datetime:
    """The clock of this machine, in whole seconds. The one clock of the document commands."""
    return datetime.now(UTC).replace(microsecond=0)


def read_envelope(path: Path, payload_type: str) -> UnverifiedEnvelope:
    """The envelope in ``path``; nobody's signature has been checked."""
    return open_envelope(read_bounded(path, MAX_ENVELOPE_BYTES), payload_type)


def load_charter(path: Path, previous: Path | None = None) -> VerifiedCharter:
    """The verified charter in ``path``, following ``previous`` where one is given.

    Raises:
        DocumentError, WireError, OSError, UserError: it cannot be read or does not hold now.
    """
    older = load_charter(previous) if previous is not None else None
    return verify_charter(read_bounded(path, MAX_ENVELOPE_BYTES), present(), previous=older)


def load_plan(path: Path, charter: VerifiedCharter) -> VerifiedPlan:
    """The verified plan in ``path``.

    Raises:
        DocumentError, WireError, OSError, UserError: it cannot be read or does not hold now.
    """
    return verify_plan(read_bounded(path, MAX_ENVELOPE_BYTES), charter, present())


def write_unsigned(path: Path, payload: bytes, payload_type: str, *, force: bool) -> UnverifiedEnvelope:
    """Write a new document that nobody has signed."""
    envelope = new_envelope(payload, payload_type)
    write_file(path, envelope.encode(), force=force)
    return envelope


def add_signature(path: Path, envelope: UnverifiedEnvelope, signing: Signing, report: Report) -> str:
    """Sign ``envelope`` and replace ``path`` with it; gives back the member who signed.

    Raises:
        DocumentError: UNKNOWN_MEMBER: the key belongs to no member; or an earlier signature does not hold.
    """
    member = owner_of(raw_public_key(signing.signer), signing.keys_by_member)
    signers(envelope, signing.keys_by_member)
    confirm(f"Sign this as {member}?", ask=signing.ask, report=report)
    signed = sign(envelope, signing.signer)
    write_file(path, signed.encode(), force=True)
    report.say(f"Signed by {member}.")
    return member


def owner_of(public_key: bytes, keys_by_member: Mapping[str, Sequence[bytes]]) -> str:
    """The member whose key this is.

    Raises:
        DocumentError: UNKNOWN_MEMBER: nobody's.
    """
    for member, keys in keys_by_member.items():
        if public_key in keys:
            return member
    raise DocumentError(Reason.UNKNOWN_MEMBER, "signing key: it belongs to no member of the charter")


def keys_of_both(older: Charter, newer: Charter) -> dict[str, tuple[bytes, ...]]:
    """The keys that may sign a replacement: those of the older charter, and the new ones."""
    old, new = older.signing_keys, newer.signing_keys
    return {member: tuple(dict.fromkeys((*old.get(member, ()), *new.get(member, ())))) for member in {**old, **new}}


def confirm(question: str, *, ask: bool, report: Report) -> None:
    """Go on only when the person says yes.

    Raises:
        UserError: nobody can be asked.
        typer.Abort: the answer is no.
    """
    if not ask:
        return
    if report.json_output:
        raise UserError("a question cannot be asked with --json", "Add --yes once you have read the document.")
    typer.confirm(question, abort=True, err=True)


def show_signers(report: Report, found: frozenset[str], *, needed: int, required: Sequence[str] = ()) -> None:
    """Say who signed, and who or how many are still missing."""
    missing = sorted(set(required) - found)
    report.say(f"Signed by: {', '.join(sorted(found)) or 'nobody'} ({len(found)} of {needed} needed).")
    if missing:
        report.say(f"Must still sign: {', '.join(missing)}.")
    report.data |= {"signers": sorted(found), "needed": needed, "missing": missing}
