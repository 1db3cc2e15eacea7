"""An app's own server in the aggregator, in sentences for the person who is asked to sign. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trusted.documents.terms import Rule

if TYPE_CHECKING:
    from trusted.documents.plan import Plan


def explain_server_app(plan: Plan) -> Iterator[str]:
    """What is trusted more, and what still holds; nothing under any other rule."""
    terms = plan.aggregation
    if terms.rule is not Rule.SERVER_APP:
        return
    yield (
        "THE TRUSTED CODE BASE IS LARGER: the server code of the app bundle "
        f"{plan.app.bundle_sha256.hex()}, and Flower with it, runs inside the aggregator and SEES EVERY SINGLE ANSWER "
        "of every member. What it makes of them is its own matter: read it before you sign."
    )
    yield (
        f"It asks sites at most {terms.max_exchanges} time(s), whom and what it likes; every message is "
        f"{terms.max_message_mib} MiB long, whatever it holds. Between two exchanges it may take {terms.turn_s} s."
    )
    yield (
        "It has no network, no files but its own, and nobody hears what it prints. Of what it knows only the final "
        "model leaves, and how often and whom it asks, which every host sees."
    )
    yield (
        f"A site may be asked alone; but answers of fewer than {plan.cohort.minimum} sites, or of all that were asked, "
        f"are kept from it, and a model that heard fewer than {plan.cohort.minimum} sites in the whole run is not "
        "released."
    )


def explain_permission(exchanges: int) -> Iterator[str]:
    """What a site policy allows an app's own server; nothing where it allows nothing."""
    if exchanges:
        yield (
            f"An app's own server, inside the aggregator, may ask this site at most {exchanges} time(s) and see its "
            "single answers."
        )
