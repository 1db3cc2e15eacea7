"""A site's own bounds, and what remains once all three documents agree (docs/protocol.md §2). Trust zone: every TEE.

Effective rule = charter ∩ plan ∩ site policy. The consortium cannot overrule a site: what its policy does not list is
refused by its own worker, before that worker says hello.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trusted.documents.charter import VerifiedCharter
from trusted.documents.dsse import Verified, open_envelope, require_signers, signers
from trusted.documents.plan import MAX_ROUNDS, VerifiedPlan
from trusted.documents.schema import (
    DIGEST_BYTES,
    check_not_after,
    read_digests,
    read_member,
    read_time,
    write_time,
)
from trusted.documents.terms import MAX_EXCHANGES, Rule, read_columns
from trusted.errors import DocumentError, Reason
from trusted.wire import Fields, decode_json, encode_json, sha256

PAYLOAD_TYPE = "application/vnd.cloister.site-policy.v1+json"


@dataclass(frozen=True, slots=True)
class SitePolicy:
    """What one member lets its own worker do, as parsed. An empty list allows nothing.

    ``server_app_exchanges``: how often an app's own server, in the aggregator, may ask this site something and see its
    single answer; 0, as where nothing is said, allows no such plan.
    """

    member: str
    charter: bytes
    plans: tuple[bytes, ...]
    bundles: tuple[bytes, ...]
    max_rounds: int
    columns: tuple[str, ...]
    not_after: datetime
    server_app_exchanges: int = 0

    @classmethod
    def parse(cls, payload: bytes) -> SitePolicy:
        """The site policy of a payload, whose writer may be lying.

        Raises:
            WireError, DocumentError: not canonical, or a field is missing, unknown or out of bounds.
        """
        with Fields(decode_json(payload), "site_policy") as fields:
            return cls(
                member=read_member(fields, "member"),
                charter=fields.octets("charter", DIGEST_BYTES),
                plans=read_digests(fields, "plans"),
                bundles=read_digests(fields, "bundles"),
                max_rounds=fields.integer("max_rounds", low=0, high=MAX_ROUNDS),
                columns=read_columns(fields, "columns", low=0),
                not_after=read_time(fields, "not_after"),
                server_app_exchanges=_read_exchanges(fields),
            )

    def encode(self) -> bytes:
        """The canonical payload."""
        return encode_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The document as docs/protocol.md §2 names its fields."""
        return {
            "member": self.member,
            "charter": self.charter.hex(),
            "plans": [digest.hex() for digest in self.plans],
            "bundles": [digest.hex() for digest in self.bundles],
            "max_rounds": self.max_rounds,
            "columns": list(self.columns),
            "not_after": write_time(self.not_after),
            **({"server_app_exchanges": self.server_app_exchanges} if self.server_app_exchanges else {}),
        }


@dataclass(frozen=True, slots=True)
class VerifiedSitePolicy(Verified[SitePolicy]):
    """A site policy that its member signed under this charter, and that holds now."""


@dataclass(frozen=True, slots=True)
class EffectiveRule:
    """What a worker may do: allowed by charter, plan and site policy at once."""

    member: str
    charter: bytes
    plan: bytes
    bundle_sha256: bytes
    rounds: int
    columns: tuple[str, ...]
    min_rows: int
    not_after: datetime
    exchanges: int = 0


def verify_site_policy(envelope: bytes, charter: VerifiedCharter, now: datetime) -> VerifiedSitePolicy:
    """The site policy in ``envelope``, signed by the one member it speaks for, at the time ``now``.

    Raises:
        WireError, DocumentError: the first rule that does not hold.
    """
    opened = open_envelope(envelope, PAYLOAD_TYPE)
    policy = SitePolicy.parse(opened.payload)
    if policy.charter != charter.digest:
        raise DocumentError(Reason.DOCUMENT_DIGEST, "site_policy.charter: the digest of another charter")
    member = charter.document.member(policy.member)
    found = signers(opened, charter.document.signing_keys) & {member.id}
    require_signers(found, [member.id], "site_policy")
    check_not_after(policy.not_after, now, "site_policy")
    return VerifiedSitePolicy(policy, sha256(opened.payload), envelope, found)


def effective(charter: VerifiedCharter, plan: VerifiedPlan, site_policy: VerifiedSitePolicy) -> EffectiveRule:
    """What the site of ``site_policy`` may do under ``plan``.

    Raises:
        DocumentError: DOCUMENT_DIGEST: the three do not belong together;
            SITE_REFUSES: the site's own bound that refuses, by name.
    """
    own, run = site_policy.document, plan.document
    if not own.charter == run.charter == charter.digest:
        raise DocumentError(Reason.DOCUMENT_DIGEST, "site_policy.charter: plan and site policy name different charters")
    _allow(own.member in run.cohort.members, "member", "the plan's cohort does not contain this site")
    _allow(plan.digest in own.plans, "plans", "this plan is not listed")
    _allow(run.app.bundle_sha256 in own.bundles, "bundles", "the plan's app is not listed")
    _allow(run.rounds <= own.max_rounds, "max_rounds", "the plan asks for more rounds")
    _allow(set(run.dataset.needed) <= set(own.columns), "columns", "the plan asks for a column that is not listed")
    exchanges = run.aggregation.max_exchanges
    asked = run.aggregation.rule is Rule.SERVER_APP
    _allow(not asked or own.server_app_exchanges > 0, "server_app_exchanges", "no app's own server may see its answers")
    _allow(exchanges <= own.server_app_exchanges, "server_app_exchanges", "the plan asks for more")
    return EffectiveRule(
        member=own.member,
        charter=charter.digest,
        plan=plan.digest,
        bundle_sha256=run.app.bundle_sha256,
        rounds=run.rounds,
        columns=run.dataset.columns,
        min_rows=run.dataset.min_rows,
        not_after=min(own.not_after, run.validity.not_after, charter.document.validity.not_after),
        exchanges=exchanges,
    )


def _read_exchanges(fields: Fields) -> int:
    """Left out is none, so that what was signed before there were such plans allows none of them."""
    if not fields.has("server_app_exchanges"):
        return 0
    return fields.integer("server_app_exchanges", low=1, high=MAX_EXCHANGES)


def _allow(condition: bool, bound: str, why: str) -> None:
    if not condition:
        raise DocumentError(Reason.SITE_REFUSES, f"site_policy.{bound}: {why}")
