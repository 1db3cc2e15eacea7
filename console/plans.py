"""Making a plan from what a person gives. Trust zone: the member's own machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from console.app_terms import NOTHING, AppTerms, read_messages, read_settings
from console.documents import present
from console.exchanging import IN_FULL, Travel
from console.files import read_bounded
from console.folding import MEAN, Folding
from console.initial_model import read_initial_model
from console.output import UserError
from trusted.apps.bundle import MAX_BUNDLE_BYTES, build_bundle, bundle_digest, unpack_bundle
from trusted.documents.charter import VerifiedCharter
from trusted.documents.plan import MIN_COHORT, Plan, check_against
from trusted.documents.schema import Validity

_MIN_METRIC_SITES = 2
_METRIC_DIGITS = 3
_MAX_CONTRACT_BYTES = 1 << 20
_CONTRACT_FORM = "Write an object with columns, and perhaps min_rows, consent and expires; see docs/data.md."


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained: app bundle, its configuration (``key=value``), initial model, perhaps a layout, what travels.

    ``app`` is what the app says of itself; the other configurations (``key=value`` too) go before it.
    """

    bundle: bytes
    config: Sequence[str]
    initial_model: Path
    layout: Path | None
    travel: Travel = IN_FULL
    app: AppTerms = NOTHING
    train_config: Sequence[str] = ()
    evaluate_config: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Sites:
    """Who trains on what, and who gets the result; ``share`` of the members is sampled where there is no ``size``."""

    members: Sequence[str]
    minimum: int | None
    size: int | None
    min_rows: int
    columns: Sequence[str]
    metrics: Sequence[str]
    recipients: Sequence[str]
    share: float | None = None
    evaluation: Mapping[str, Any] | None = None
    contract: Path | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """How long everything lasts."""

    round_s: int
    lease_s: int
    reattest_s: int
    valid_days: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What the run is called and is for, and how it goes."""

    name: str
    purpose: str
    rounds: int
    max_weight: float
    privacy: dict[str, Any]
    timing: Timing
    folding: Folding = MEAN


def read_bundle(app: Path) -> bytes:
    """The Flower App Bundle of a folder, or the bundle file itself.

    Raises:
        OSError, AppError, UserError: there is no such app, or the file is no bundle that a worker would unpack.
    """
    if app.is_dir():
        return build_bundle(app)
    bundle = read_bounded(app, MAX_BUNDLE_BYTES)
    with TemporaryDirectory() as folder:
        unpack_bundle(bundle, expected=bundle_digest(bundle), into=Path(folder) / "app")
    return bundle


def make_plan(charter: VerifiedCharter, training: Training, sites: Sites, terms: Terms) -> Plan:
    """The plan of all that under ``charter``, checked by the rules by which everybody else will check it.

    Raises:
        UserError, OSError, WireError, DocumentError: the first thing that does not hold.
    """
    initial = read_initial_model(training.initial_model, training.layout)
    now, timing = present(), terms.timing
    members = list(sites.members) or [member.id for member in charter.document.members]
    cohort = _cohort(charter, members, sites)
    document: dict[str, Any] = {
        "name": terms.name,
        "purpose": terms.purpose,
        "charter": charter.digest.hex(),
        **Validity(now, now + timedelta(days=timing.valid_days)).to_json(),
        "app": {
            "kind": "flower",
            "bundle_sha256": bundle_digest(training.bundle).hex(),
            **_settings(training),
        },
        "model": {"initial_sha256": initial.digest.hex(), "layout": initial.layout.to_json()},
        "rounds": terms.rounds,
        "cohort": cohort,
        "deadlines": {"round_s": timing.round_s, "lease_s": timing.lease_s, "reattest_s": timing.reattest_s},
        "aggregation": terms.folding.to_json(terms.max_weight, cohort["minimum"]),
        "privacy": terms.privacy,
        "dataset": _dataset(sites),
        "metrics": [_metric(text) for text in sites.metrics],
        "release": {"recipients": list(sites.recipients)},
        "exchange": training.travel.to_json(initial.layout),
        **({} if sites.evaluation is None else {"evaluation": dict(sites.evaluation)}),
    }
    plan = Plan.from_json(document)
    check_against(plan, charter)
    return plan


def _cohort(charter: VerifiedCharter, members: list[str], sites: Sites) -> dict[str, Any]:
    minimum = sites.minimum or MIN_COHORT[charter.document.profile]
    share = 1.0 if sites.share is None else sites.share
    size = sites.size or max(minimum, int(len(members) * share))
    return {"members": members, "minimum": minimum, "size": size}


def _dataset(sites: Sites) -> dict[str, Any]:
    """``plan.dataset``: of the contract file, or of the columns by name. The plan's own rules check what is in it."""
    if (sites.contract is None) != bool(sites.columns):
        raise UserError("which columns the app gets is not clear", "Give --column for each, or --contract, not both.")
    if sites.contract is None:
        return {"min_rows": sites.min_rows, "columns": list(sites.columns)}
    try:
        contract = json.loads(read_bounded(sites.contract, _MAX_CONTRACT_BYTES))
    except ValueError:
        raise UserError(f"{sites.contract}: not JSON", _CONTRACT_FORM) from None
    if not isinstance(contract, dict):
        raise UserError(f"{sites.contract}: not a JSON object", _CONTRACT_FORM)
    return {"min_rows": sites.min_rows} | contract


def _settings(training: Training) -> dict[str, Any]:
    """``config`` and what goes with each message: the app's own, and over it what was given here."""
    given = {"config": {1: read_settings(training.config)}}
    given |= {"train_config": read_messages(training.train_config)}
    given |= {"evaluate_config": read_messages(training.evaluate_config)}
    whole = {key: {**getattr(training.app, key), **by_round.get(1, {})} for key, by_round in given.items()}
    later = sorted({number for by_round in given.values() for number in by_round if number != 1})
    changes = [
        {"from_round": number, **{key: by_round[number] for key, by_round in given.items() if number in by_round}}
        for number in later
    ]
    settings = {key: settings for key, settings in whole.items() if settings or key == "config"}
    return settings | ({"changes": changes} if changes else {})


def _metric(text: str) -> dict[str, Any]:
    """``name[:min_sites[:digits[:min_rows]]]``."""
    name, *numbers = text.split(":")
    if len(numbers) > 3 or not all(number.isdecimal() and len(number) < 13 for number in numbers):
        hint = "Write --metric name, name:min_sites, name:min_sites:digits or name:min_sites:digits:min_rows."
        raise UserError("a metric that does not read", hint)
    min_sites, digits, min_rows = [*map(int, numbers), *(_MIN_METRIC_SITES, _METRIC_DIGITS, 0)[len(numbers) :]]
    return {"name": name, "min_sites": min_sites, "digits": digits} | ({"min_rows": min_rows} if min_rows else {})
