"""Showing an app's sealed log to the member that it is for. Trust zone: the member's own machine."""

from __future__ import annotations

from pathlib import Path

from console.output import ExitCode, Report
from trusted.hpke import SealingKey
from worker.app_log import End, open_log

_HOW = {
    End.WHOLE: "",
    End.CUT: "It ends early: the worker was ended, or the file was cut. Nobody can tell which.",
    End.ALTERED: "ALTERED from here on: a part does not open, is missing, or stands in another place.",
}


def show_log(file: Path, key: SealingKey, report: Report) -> ExitCode:
    """Say what each start of the worker printed; the exit code for the shell.

    Raises:
        AppError: not a sealed log, or for another key. OSError: it cannot be read.
    """
    starts = []
    with file.open("rb") as sealed:
        for number, start in enumerate(open_log(sealed, key), 1):
            report.heading(f"Start {number} of the worker of {start.member}, plan {start.plan.hex()[:16]}…")
            words = start.words.decode("utf-8", "replace")
            report.say(*(line.replace("\t", "    ") for line in words.splitlines()))
            report.say(*filter(None, [_HOW[start.end]]))
            starts.append({"member": start.member, "plan": start.plan.hex(), "end": start.end.value, "words": words})
    if not starts:
        report.say("The log is empty: no worker has started yet.")
    report.data |= {"starts": starts}
    altered = any(start["end"] == End.ALTERED.value for start in starts)
    return ExitCode.INTEGRITY if altered else ExitCode.OK
