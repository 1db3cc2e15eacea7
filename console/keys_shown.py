"""Keys, grants and the log of a store, as rows for people and objects for programs. Trust zone: the member's own."""

from __future__ import annotations

from collections.abc import Sequence

from broker.records import Entry, KeptGrant, KeptKey
from console.granting import parsed, standing
from console.output import Report
from trusted.documents.schema import write_time
from trusted.wire import Json


def show_keys(report: Report, keys: Sequence[KeptKey]) -> None:
    """Every key: its id, kind and what it opens."""
    for key in keys:
        gone = "  RETIRED" if key.retired else ""
        report.say(f"{key.id.hex()}  {key.kind.value}  {key.description}  since {key.added}{gone}")
    if not keys:
        report.say("No keys. `cloister data seal` and `cloister keys import` bring them.")
    report.data["keys"] = [
        {
            "id": key.id.hex(),
            "kind": key.kind.value,
            "description": key.description,
            "added": key.added,
            "retired": key.retired,
        }
        for key in keys
    ]


def show_grants(report: Report, grants: Sequence[KeptGrant]) -> None:
    """Every grant: to whom, how often it may still be used, until when, and how it stands."""
    listed: list[dict[str, Json]] = []
    for kept in grants:
        grant = parsed(kept)
        state = standing(kept, grant)
        left = f"{kept.remaining} of {grant.releases} left"
        who = f"{grant.role.value} of {grant.holder}"
        report.say(f"{kept.digest.hex()[:16]}  key {kept.key.hex()[:12]}  {who}  {state}")
        report.say(f"  {left}, until {write_time(grant.validity.not_after)}, {grant.assurance.value} or better")
        told: dict[str, Json] = {"grant": kept.digest.hex(), "state": state, "remaining": kept.remaining}
        listed.append(told | {"terms": grant.to_json()})
    if not grants:
        report.say("No grants.")
    report.data["grants"] = listed


def show_log(report: Report, entries: Sequence[Entry]) -> None:
    """Every line of the log, the first first."""
    for entry in entries:
        report.say(" ".join(_words(entry)))
    if not entries:
        report.say("Nothing has happened yet.")
    report.data["log"] = [
        {
            "number": entry.number,
            "at": entry.at,
            "event": entry.event.value,
            "key": _hex(entry.key),
            "grant": _hex(entry.grant),
            "result": _hex(entry.result),
            "measurement": _hex(entry.measurement),
            "reason": entry.reason.code if entry.reason is not None else None,
            "signed": None if entry.envelope is None else entry.envelope.decode("ascii"),
        }
        for entry in entries
    ]


def _words(entry: Entry) -> list[str]:
    words = [entry.at, f"{entry.event.value:<8}"]
    named = {"key": entry.key, "grant": entry.grant, "to": entry.measurement, "result": entry.result}
    words += [f"{name} {value.hex()[:12]}" for name, value in named.items() if value is not None]
    if entry.reason is not None:
        words.append(f"{entry.reason.code} {entry.reason.name}")
    return words


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
