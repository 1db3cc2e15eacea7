"""Event logs by themselves: no evidence, but what a log says and what it leads to, for each log in the folder.

A log is of a confidential guest (CCEL: registers are MRTD and the RTMRs) or of a TPM (registers are PCRs). Both are the
same structure, so both readings are given; where only one can be had, the log is of that kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.attestation.from_vector import files
from trusted.attestation.formats import ccel, tcg_event_log
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.errors import AttestationError


def judge(folder: Path, case: Mapping[str, Any], now: datetime) -> None:
    """Every log that the case speaks of parses, and replays.

    Raises:
        AttestationError: it does not.
    """
    for log in files.named(case, files.event_logs(folder)).values():
        _replayed(tcg_event_log.parse(log, table=True))


def found_in(folder: Path) -> dict[str, Any]:
    """What the folder's logs say: the first one's facts, and each one's under its file's name."""
    logs = {path.name: found(log) for path, log in files.event_logs(folder).items()}
    return {**next(iter(logs.values())), **logs}


def found(log: bytes) -> dict[str, Any]:
    """What ``log`` says, in words such as those of the provenance files."""
    parsed = tcg_event_log.parse(log, table=True)
    facts: dict[str, Any] = {
        "events": len(parsed.events),
        "event_count": len(parsed.events),
        "algorithms": list(parsed.algorithms),
        "used_bytes": parsed.used_bytes,
        "pcrs": _replayed(parsed),
    }
    try:
        return facts | {"rtmr": [value.hex() for value in ccel.replay(ccel.parse(log)).rtmrs]}
    except AttestationError:
        return facts  # of a TPM: it has other registers than a confidential guest


def _replayed(log: tcg_event_log.UnverifiedEventLog) -> dict[str, dict[str, str]]:
    """The registers that the log touches, in each bank that is trusted."""
    banks = [bank for bank in Bank if bank.value in log.algorithms]
    return {
        bank.label: {str(index): value.hex() for index, value in sorted(log.replay(bank).items())} for bank in banks
    }
