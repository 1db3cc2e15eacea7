"""Making a site policy from the plans that a site allows. Trust zone: the member's own machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from console.documents import load_plan, present
from console.output import Report
from trusted.documents.charter import VerifiedCharter
from trusted.documents.dsse import UnverifiedEnvelope
from trusted.documents.plan import VerifiedPlan
from trusted.documents.schema import write_time
from trusted.documents.site_policy import SitePolicy, effective, verify_site_policy


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the site sets itself; None and no columns mean what the plans ask for.

    ``server_app_exchanges``: how often an app's own server may ask this site; that nobody asks for by itself.
    """

    max_rounds: int | None
    columns: tuple[str, ...]
    valid_days: int
    server_app_exchanges: int = 0


def make_site_policy(
    charter: VerifiedCharter, member: str, plans: Sequence[VerifiedPlan], bounds: Bounds
) -> SitePolicy:
    """The policy of ``member`` that allows ``plans`` within ``bounds``.

    Raises:
        WireError, DocumentError: ``member`` is none, or a bound is out of range.
    """
    documents = [plan.document for plan in plans]
    columns = bounds.columns or tuple(sorted({column for plan in documents for column in plan.dataset.needed}))
    asked = max((plan.rounds for plan in documents), default=0)
    policy = SitePolicy(
        member=charter.document.member(member).id,
        charter=charter.digest,
        plans=tuple(dict.fromkeys(plan.digest for plan in plans)),
        bundles=tuple(dict.fromkeys(plan.app.bundle_sha256 for plan in documents)),
        max_rounds=asked if bounds.max_rounds is None else bounds.max_rounds,
        columns=columns,
        not_after=present() + timedelta(days=bounds.valid_days),
        server_app_exchanges=bounds.server_app_exchanges,
    )
    return SitePolicy.parse(policy.encode())


def show_effective(
    report: Report, envelope: UnverifiedEnvelope, charter: VerifiedCharter, plan_file: Path
) -> dict[str, Any]:
    """Say what remains of a plan under the site policy in ``envelope``.

    Raises:
        DocumentError: SITE_REFUSES and the bound that refuses, or one of the documents does not hold.
    """
    site_policy = verify_site_policy(envelope.encode(), charter, present())
    rule = effective(charter, load_plan(plan_file, charter), site_policy)
    until = write_time(rule.not_after)
    report.say(
        f"This site allows the plan {rule.plan.hex()}: {rule.rounds} round(s) "
        f"on the columns {', '.join(rule.columns)}, until {until}."
    )
    return {"plan": rule.plan.hex(), "rounds": rule.rounds, "columns": list(rule.columns), "not_after": until}
