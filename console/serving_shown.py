"""What a scoring service proved, for people and for programs. Trust zone: a recipient's machine."""

from __future__ import annotations

from typing import Any

from console.output import Report
from console.running import protection_in_words
from trusted.scoring.client import ProvedService


def show_service(report: Report, proved: ProvedService) -> None:
    """Say what is served, to whom it is limited, and what stands behind it."""
    statement = proved.statement
    limits, declaration = statement.limits, statement.declaration
    report.heading("What the service proved that it serves")
    report.rows(
        [
            ("model", statement.model_sha256.hex()),
            ("release", statement.release_sha256.hex()),
            ("app bundle", statement.bundle_sha256.hex()),
            ("takes", ", ".join(declaration.inputs)),
            ("gives", ", ".join(declaration.outputs) + _rounded(declaration.digits)),
            ("limits", f"{limits.rows_per_request} rows a request, {limits.requests_per_minute} requests a minute"),
            ("in all", f"{limits.requests_total} requests until its next start"),
        ]
    )
    report.say(service_protection(proved))
    report.data |= service_json(proved)


def service_protection(proved: ProvedService) -> str:
    """One sentence: what stands behind the proof."""
    result = proved.result
    protection = protection_in_words(result.assurance.value)
    return f"The service proved measurement {result.measurement.hex()[:16]}… ({protection})."


def service_json(proved: ProvedService) -> dict[str, Any]:
    """The statement and the attestation result."""
    statement = proved.statement
    return {
        "service": {
            "model_sha256": statement.model_sha256.hex(),
            "release": statement.release_sha256.hex(),
            "bundle": statement.bundle_sha256.hex(),
            "scoring": statement.declaration.to_json(),
            "limits": statement.limits.to_json(),
        },
        "attestation": proved.result.to_json(),
        "protection": protection_in_words(proved.result.assurance.value),
    }


def _rounded(digits: int | None) -> str:
    return "" if digits is None else f", rounded to {digits} decimal places"
