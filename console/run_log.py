"""``cloister run log``: fetching a run's log from its host, and showing it. Trust zone: an auditor's machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from console.auditing import AuditedLog, Auditor, described, read_credential
from console.client import HostClient
from console.files import read_bounded
from console.ordering import Desk
from console.output import Report, UserError
from trusted.documents.credential import MAX_ENVELOPE_BYTES
from trusted.errors import LedgerError, Reason, RunError
from trusted.ledger.checkpoint import TreeHead
from trusted.ledger.leaves import ServerApp
from trusted.ledger.notes import MAX_NOTE_BYTES
from trusted.ledger.segments import MAX_SEGMENT_BYTES, certificate_name

_ATTEMPTS = 3  # a newer checkpoint takes the place of one while it is asked for
_ROOT_BYTES = 32


def fetch_log(desk: Desk, credentials: Sequence[Path], known: Sequence[str]) -> AuditedLog:
    """The run's log as its host gives it, verified. ``known``: checkpoints (``size:root``) that it must extend.

    Raises:
        UserError: an argument is none. ProtocolError: the host is out of reach, or what it gives does not hold.
    """
    charter, plan = desk.charter, desk.plan
    given = [read_credential(read_bounded(path, MAX_ENVELOPE_BYTES), charter) for path in credentials]
    vouched = tuple(map(read_head, known))
    auditor = Auditor(charter, plan, tuple(given))
    told: tuple[TreeHead, ...] = ()
    certificate = b""
    for _ in range(_ATTEMPTS):
        told = _told(desk)
        name = certificate_name(plan.digest, auditor.newest(told))
        certificate = _whole(desk.client, plan.digest, name, MAX_NOTE_BYTES)
        if certificate:
            break
    return auditor.audit(
        told, vouched, lambda name: _whole(desk.client, plan.digest, name, MAX_SEGMENT_BYTES), certificate
    )


def read_head(text: str) -> TreeHead:
    """A checkpoint as this command prints it, ``size:root``.

    Raises:
        UserError: it is none.
    """
    size, _, root = text.partition(":")
    try:
        raw = bytes.fromhex(root)
    except ValueError:
        raw = b""
    if not (size.isascii() and size.isdigit() and len(size) < 14 and len(raw) == _ROOT_BYTES):
        raise UserError("--known: size:root expected", "Take it from an earlier `cloister run log`.")
    return TreeHead(int(size), raw)


def show_log(report: Report, log: AuditedLog) -> None:
    """Say what the log holds, leaf by leaf, and how far it was verified."""
    cosigners = log.cosigners
    for index, (kind, words) in enumerate(described(log.leaves)):
        report.say(f"{index:>6}  {kind:<9}  {words}")
    report.heading("Verified")
    proof = "a quorum" if cosigners.is_quorum else f"no quorum: {cosigners.needed} are needed"
    rows = [
        ("checkpoint", f"{log.head.size}:{log.head.root.hex()}"),
        ("cosigned, checked", f"{', '.join(cosigners.checked) or 'by nobody'} ({proof})"),
    ]
    if cosigners.unchecked:
        rows.append(("NOT checked", f"{', '.join(cosigners.unchecked)}: no credential of these workers was given"))
    if cosigners.absent:
        rows.append(("did not cosign", ", ".join(cosigners.absent)))
    if log.server_app is not None:
        rows += _server_app(log.server_app)
    drawn = "the seed is secret until the run has ended" if log.cohorts is None else f"all {log.cohorts}, from the seed"
    if log.server_app is None:
        rows.append(("cohorts drawn again", drawn))
    report.rows(rows)
    report.data |= {
        "size": log.head.size,
        "root": log.head.root.hex(),
        "leaves": [{"kind": leaf.KIND, **leaf.to_json()} for leaf in log.leaves],
        "cosigned": {"checked": cosigners.checked, "unchecked": cosigners.unchecked, "absent": cosigners.absent},
        "quorum": {"needed": cosigners.needed, "verified": cosigners.is_quorum},
        "cohorts_drawn_again": log.cohorts,
        **({} if log.server_app is None else {"trusted_code_base_enlarged_by": log.server_app.to_json()}),
    }


def _server_app(said: ServerApp) -> list[tuple[str, str]]:
    """What the aggregator ran beside our own code."""
    trusted = (
        f"LARGER by the app {said.bundle_sha256.hex()}: its server {said.component} ran in the aggregator under flwr "
        f"{said.flower}, and saw every single answer"
    )
    return [("trusted code base", trusted), ("cohorts", "chosen by the app's own server; nothing to draw again")]


def _told(desk: Desk) -> tuple[TreeHead, ...]:
    heads = []
    for event in desk.client.recorded(desk.plan.digest):
        if event.fields.get("event") == "checkpoint":
            size, root = event.fields.get("size"), bytes.fromhex(str(event.fields.get("root", "")))
            if not isinstance(size, int) or not size or len(root) != _ROOT_BYTES:
                raise LedgerError(Reason.STATE_MISSING, "log: the host tells of a checkpoint without its size or root")
            heads.append(TreeHead(size, root))
    return tuple(heads)


def _whole(client: HostClient, plan: bytes, name: bytes, limit: int) -> bytes:
    """All that the host gives under ``name``, empty if it has nothing."""
    data = bytearray()
    try:
        for piece in client.get_blob(plan, name):
            data += piece
            if len(data) > limit:
                raise LedgerError(Reason.STATE_ROLLBACK, "log: the host gives more than any part of a log has")
    except RunError as error:
        if error.reason is not Reason.BLOB_UNKNOWN:
            raise
        return b""
    return bytes(data)
