"""An explanation as a table for people and as an object for programs. Trust zone: a member's machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from console.claims_in_words import claims_json, claims_rows
from console.explained_rows import Row, Standing, failures
from console.explaining import Conclusion, Explanation
from console.hints import runbook_for
from console.output import Report
from console.running import NO_HARDWARE_PROTECTION
from trusted.attestation.roots import Assurance
from trusted.wire import Json

_MAX_CELL = 44
_LABELS = {Standing.PASS: "pass", Standing.FAIL: "FAIL", Standing.SKIP: "skip", Standing.NOT_CHECKED: "not checked"}


def show_explanation(report: Report, explanation: Explanation) -> None:
    """Print the claims, every check, and the verdict as the last line."""
    if explanation.claims is not None:
        report.heading("What the evidence says")
        report.rows(claims_rows(explanation.claims))
    report.heading("What was checked")
    _show_rows(report, explanation.rows)
    report.say("", *_warnings(explanation), _last_line(explanation))
    report.data |= explanation_json(explanation)


def show_verdict(report: Report, explanation: Explanation) -> None:
    """Print the warnings and the verdict, and nothing else."""
    report.say(*_warnings(explanation), _last_line(explanation))
    report.data |= explanation_json(explanation)


def explanation_json(explanation: Explanation) -> dict[str, Any]:
    """``checks``, ``claims`` (empty when nothing verified), ``verdict``, ``assurance`` and what was not bound."""
    return {
        "checks": [row.to_json() for row in explanation.rows],
        "claims": {} if explanation.claims is None else claims_json(explanation.claims),
        "verdict": explanation.conclusion.value,
        "assurance": None if explanation.assurance is None else explanation.assurance.value,
        "binding_not_checked": list(explanation.unbound),
    }


def _show_rows(report: Report, rows: tuple[Row, ...]) -> None:
    width = max(len(row.claim) for row in rows)
    expected = max(len("expected"), *(len(_cell(row.expected)) for row in rows))
    report.say(f"  {'verdict':<11}  {'claim':<{width}}  {'expected':<{expected}}  actual")
    for row in rows:
        cells = f"{_cell(row.expected):<{expected}}  {_cell(row.actual)}"
        report.say(f"  {_LABELS[row.standing]:<11}  {row.claim:<{width}}  {cells}")
        report.say(*(f"  {'':<11}  {line}" for line in _advice(row)))


def _cell(text: str) -> str:
    """Long digests are cut for the eye; ``--json`` has them whole."""
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…"


def _advice(row: Row) -> list[str]:
    if row.reason is None:
        return [row.remedy] if row.remedy else []
    whole = [
        f"{name} {text}" for name, text in (("expected", row.expected), ("actual", row.actual)) if len(text) > _MAX_CELL
    ]
    code = row.reason.code
    return [*whole, f"{code} {row.reason.name}: {row.remedy} ({runbook_for(code)})"]


def _warnings(explanation: Explanation) -> list[str]:
    said = []
    if explanation.unbound:
        said.append(
            f"Binding NOT checked ({', '.join(explanation.unbound)}): this may be somebody else's evidence, replayed."
        )
    if explanation.claims is not None and _debugged(claims_json(explanation.claims)):
        said.append("Debug is ON: the host can read all of this guest's memory.")
    if explanation.assurance is Assurance.NONE:
        said.append(f"{NO_HARDWARE_PROTECTION}: this evidence comes from software.")
    return said


def _debugged(claims: Mapping[str, Json]) -> bool:
    return any(value is True and (name == "debug" or name.endswith("_debug")) for name, value in claims.items())


def _last_line(explanation: Explanation) -> str:
    unbound = ", binding not checked" if explanation.unbound else ""
    match explanation.conclusion:
        case Conclusion.AFFIRMING:
            return f"Verdict: affirming{unbound}. The evidence meets the charter's policy."
        case Conclusion.VERIFIED:
            return f"Verdict: verified{unbound}. The evidence is genuine; no charter was asked whether that is enough."
        case Conclusion.REFUSED:
            failed = failures(explanation.rows)
            codes = ", ".join(f"{row.reason.code} {row.reason.name}" for row in failed if row.reason is not None)
            return f"Verdict: refused, {codes}."
