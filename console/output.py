"""How commands speak: sentences for people, one JSON object for programs, exit codes. Trust zone: the member's machine.

With ``--json`` stdout carries exactly one object, ``{"schema_version", "status", "data", "error"}``, and sentences go
to stderr; without it stdout carries the sentences. Errors are turned into words at this one place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any

import typer

from console.hints import hint_for, runbook_for
from trusted.errors import ProtocolError, Reason

SCHEMA_VERSION = "1"
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; sentences go to stderr.")]


class ExitCode(IntEnum):
    """What the shell is told; the same for every command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    POLICY = 3
    ATTESTATION = 4
    INTEGRITY = 5
    UNREACHABLE = 6
    TIMEOUT = 7


_EXIT_BY_REASON = {
    Reason.UNREACHABLE: ExitCode.UNREACHABLE,
    Reason.NO_AGGREGATOR: ExitCode.UNREACHABLE,
    Reason.STORE_AWAY: ExitCode.UNREACHABLE,
    Reason.HOST_SHORT: ExitCode.UNREACHABLE,
    Reason.HANDSHAKE_TIMEOUT: ExitCode.TIMEOUT,
    Reason.ROUND_DEADLINE: ExitCode.TIMEOUT,
    Reason.APP_TIMEOUT: ExitCode.TIMEOUT,
}
_EXIT_BY_FAMILY = {
    2: ExitCode.ATTESTATION,
    3: ExitCode.POLICY,
    4: ExitCode.INTEGRITY,
    5: ExitCode.INTEGRITY,
    6: ExitCode.INTEGRITY,
    9: ExitCode.ATTESTATION,
    10: ExitCode.INTEGRITY,
    11: ExitCode.POLICY,
}


class UserError(Exception):
    """What the person gave cannot be used. ``message`` says what was wrong, ``hint`` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as people and programs read it."""

    code: str
    message: str
    hint: str
    exit_code: ExitCode

    def to_json(self) -> dict[str, str]:
        """The ``error`` object of the envelope."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "runbook": runbook_for(self.code)}


def failure_of(error: BaseException) -> Failure:
    """``error`` in words, with what to do about it. The one place where errors become text."""
    if isinstance(error, ProtocolError):
        message = f"{error.reason.name}: {error.detail}"
        return Failure(error.reason.code, message, hint_for(error.reason), exit_code_of(error.reason))
    if isinstance(error, UserError):
        return Failure("CLI-001", error.message, error.hint, ExitCode.FAILURE)
    if isinstance(error, TimeoutError):
        hint = "Try again; if it repeats, look at the coordinator's log."
        return Failure("CLI-007", "the other side did not answer in time", hint, ExitCode.TIMEOUT)
    if isinstance(error, ConnectionError) and not isinstance(error, BrokenPipeError):
        hint = hint_for(Reason.UNREACHABLE)
        return Failure("CLI-006", f"no connection: {error.strerror or 'refused'}", hint, ExitCode.UNREACHABLE)
    if isinstance(error, OSError):
        return Failure("CLI-003", _file_words(error), "Check the path and its permissions.", ExitCode.FAILURE)
    return _bug(error)


def exit_code_of(reason: Reason) -> ExitCode:
    """The exit code of a refusal: by its reason, or by its family."""
    return _EXIT_BY_REASON.get(reason, _EXIT_BY_FAMILY.get(reason.value // 100, ExitCode.FAILURE))


def _file_words(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror or error)


def _bug(error: BaseException) -> Failure:
    """The type alone is told: the text of an unforeseen error may hold anything."""
    hint = "This is a bug in Cloister. Report it with the command and this line."
    return Failure("CLI-099", f"unforeseen {type(error).__name__}", hint, ExitCode.FAILURE)


class Report:
    """What one command has to say. ``data`` is what ``--json`` prints; :meth:`say` is for people."""

    def __init__(self, json_output: bool) -> None:
        self.json_output = json_output
        self.data: dict[str, Any] = {}

    def say(self, *sentences: str) -> None:
        """Print sentences: on stdout, or on stderr when stdout carries JSON."""
        for sentence in sentences:
            typer.echo(printable(sentence), err=self.json_output)

    def heading(self, text: str) -> None:
        """Print a heading with an empty line before it."""
        typer.echo("", err=self.json_output)
        typer.secho(printable(text), bold=True, err=self.json_output)

    def rows(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Print names and values in two columns."""
        listed = list(pairs)
        width = max((len(name) for name, _ in listed), default=0)
        self.say(*(f"  {name:<{width}}  {value}" for name, value in listed))


def printable(text: str) -> str:
    """``text`` without control characters: what stands in a file must not steer somebody's terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


@contextmanager
def reporting(json_output: bool) -> Iterator[Report]:
    """Run one command: its report is printed when it ends, and an error becomes words and an exit code.

    Raises:
        typer.Exit: with the code of the error.
    """
    report = Report(json_output)
    try:
        yield report
    except (typer.Exit, typer.Abort, KeyboardInterrupt):
        raise
    except Exception as error:  # the process shell: whatever happens, the caller gets one object and one exit code
        failure = failure_of(error)
        print_failure(failure, json_output=json_output)
        raise typer.Exit(failure.exit_code) from None
    if json_output:
        _print_envelope("ok", report.data, None)


def print_failure(failure: Failure, *, json_output: bool) -> None:
    """Print a failure: one object on stdout, or sentences on stderr."""
    if json_output:
        _print_envelope("error", {}, failure.to_json())
        return
    typer.secho(f"error {failure.code}: {printable(failure.message)}", err=True, fg="red")
    typer.echo(f"  {printable(failure.hint)}\n  See {runbook_for(failure.code)}.", err=True)


def _print_envelope(status: str, data: dict[str, Any], error: dict[str, str] | None) -> None:
    envelope = {"schema_version": SCHEMA_VERSION, "status": status, "data": data, "error": error}
    sys.stdout.write(json.dumps(envelope, ensure_ascii=True, allow_nan=False) + "\n")
    sys.stdout.flush()
