"""Orders to a host and what it answers. Trust zone: a member's machine; nothing that a host says is proof."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes
from typing import Any

from console.client import HostClient
from console.documents import load_charter, load_plan, owner_of, present
from console.files import MAX_CA_BYTES, read_bounded
from console.output import Report
from console.waiting import standing, waits
from coordinator.host.run_status import RunStatus
from trusted.documents import order
from trusted.documents.charter import VerifiedCharter
from trusted.documents.dsse import Signer, new_envelope, raw_public_key, sign
from trusted.documents.order import Action, Order
from trusted.documents.plan import VerifiedPlan


@dataclass(frozen=True, slots=True)
class Host:
    """Where a host is, and how it is reached."""

    target: str
    ca: Path | None
    proxy: str = ""

    def connect(self) -> HostClient:
        """A client; nothing is sent before it is used."""
        ca_pem = read_bounded(self.ca, MAX_CA_BYTES) if self.ca is not None else None
        return HostClient(self.target, ca_pem, proxy=self.proxy or None)


@dataclass(frozen=True, slots=True)
class Desk:
    """One plan at one host."""

    charter: VerifiedCharter
    plan: VerifiedPlan
    client: HostClient

    def order(self, action: str, signer: Signer) -> RunStatus:
        """Sign an order and hand it in; how the run then stands.

        Raises:
            DocumentError: the signer is no member. ProtocolError: the host refuses, or is out of reach.
        """
        member = owner_of(raw_public_key(signer), self.charter.document.signing_keys)
        document = Order(
            action=Action(action), plan=self.plan.digest, member=member, nonce=token_bytes(16), issued=present()
        )
        return self.client.submit(sign(new_envelope(document.encode(), order.PAYLOAD_TYPE), signer).encode())

    def status(self) -> RunStatus:
        """How the run stands, by the host's word."""
        return self.client.status(self.plan.digest)


@contextmanager
def desk(charter: Path, plan: Path, host: Host) -> Iterator[Desk]:
    """The desk for the plan in these files, with an open client.

    Raises:
        ProtocolError, OSError, UserError: a document does not hold, or a file cannot be read.
    """
    rules = load_charter(charter)
    verified = load_plan(plan, rules)
    with host.connect() as client:
        yield Desk(rules, verified, client)


def status_json(status: RunStatus) -> dict[str, Any]:
    """The status as ``--json`` prints it."""
    value: dict[str, Any] = json.loads(status.encode())
    return value


def _waited_for(status: RunStatus) -> str:
    if status.waiting_for:
        return ", ".join(status.waiting_for)
    return "nobody" if status.state.is_over or status.aggregator == "present" else "an aggregator of this plan"


def say_status(report: Report, status: RunStatus) -> None:
    """Say how a run stands, and why it waits."""
    report.rows(
        [
            ("plan", status.plan),
            ("state", status.state.value),
            ("rounds", f"{status.committed} of {status.rounds or '?'} done"),
            ("aggregator", status.aggregator),
            ("waiting for", _waited_for(status)),
            ("bytes", f"{status.bytes_in} in, {status.bytes_out} out"),
        ]
    )
    told = waits(status, datetime.now(UTC))
    for sentence in told:
        report.say(f"  {sentence}")
    for member in status.members.values():
        protection = "NO HARDWARE PROTECTION" if member.assurance == "none" else str(member.assurance)
        attested = f"attested, {protection}" if member.attested else "not connected"
        because = f" ({member.last_reason})" if member.last_reason else ""
        report.say(f"  {member.member}: {attested}; {standing(member)}{because}")
    report.data |= {"run": status_json(status), "waits": told}
