"""The plan that virtual members agree on for a simulation with admission. Trust zone: the developer's machine.

Everything of the simulation's terms stands in it as it is, but for how often sites are attested anew. What no round
depends on is made up: names, dates, purpose; and an evaluation at the end, which a simulation does not play, is left
out.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from simulations.hosts.consortium import Consortium, plan_of
from simulations.terms import Terms
from softtee.chip import SoftwareRoot
from trusted.documents.layout import Layout
from trusted.documents.plan import Plan, initial_digest
from trusted.documents.schema import member_id
from trusted.documents.terms import MAX_COHORT, DatasetContract, Deadlines
from trusted.encoding import Vector
from trusted.errors import DocumentError, ProtocolError

LASTS = timedelta(days=100)  # of the virtual clock; a software root's revocation list ends after a year
TICKS_A_LEASE = 2
"""Virtual time passes by so much of a lease at least, and everybody is attested anew at each."""


def require_agreeable(terms: Terms, layout: Layout) -> None:
    """Refuse what no plan can say: with admission there is one.

    Raises:
        ValueError: in one sentence, what it is.
    """
    members = terms.cohort.members
    if len(members) > MAX_COHORT:
        raise ValueError(f"admission: a plan has at most {MAX_COHORT:,} members, and here are {len(members):,} sites")
    for name in members:
        try:
            member_id(name, "site")
        except DocumentError:
            raise ValueError(
                f"admission: no member can be called {name!r}; lower-case letters, digits and hyphens expected"
            ) from None
    try:
        Plan.from_json(plan_of(members, **_changes(terms, layout)).to_json())
    except ProtocolError as error:
        raise ValueError(f"admission: no plan can be so: {error.detail}") from None


def agreed(terms: Terms, layout: Layout, initial: Vector) -> Consortium:
    """The sites as members, with a root of their own that is good for nothing else: a second or more for its keys."""
    now = datetime.now(UTC).replace(microsecond=0)
    root = SoftwareRoot.create(now=now)
    pinned = initial_digest(layout, np.ascontiguousarray(initial, dtype="<f4").data.cast("B"))
    return Consortium(
        root,
        root.issue_chip(now=now),
        members=terms.cohort.members,
        plan_changes=_changes(terms, layout) | {"initial_sha256": pinned},
        site_changes={"max_rounds": terms.rounds},
        initial=initial,
        lasts=LASTS,
    )


def _changes(terms: Terms, layout: Layout) -> dict[str, Any]:
    lease_s, private = terms.deadlines.lease_s, terms.privacy.dp_sgd
    person = None if private is None else private.person_column
    return {
        "purpose": "a simulation",
        "layout": layout,
        "rounds": terms.rounds,
        "cohort": terms.cohort,
        "deadlines": Deadlines(terms.deadlines.round_s, lease_s, lease_s // TICKS_A_LEASE),
        "aggregation": terms.aggregation,
        "privacy": terms.privacy,
        "exchange": terms.exchange,
        "dataset": DatasetContract(min_rows=1, columns=(person or "x",)),
        "metrics": terms.metrics,
        "recipients": terms.cohort.members[:1],
    }
