"""Scoring the rows of a CSV file with a service that proved itself. Trust zone: a recipient's machine."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from console.files import read_bounded
from console.output import UserError
from console.scoring_client import ScoringClient
from trusted.errors import Reason
from trusted.scoring.client import ProvedService
from trusted.scoring.messages import ScoringRefused, Table, rows_at_most
from trusted.scoring.terms import Declaration

_MAX_CSV_BYTES = 256 << 20
_PAUSE_S = 5.0
_PATIENCE_S = 120.0  # a service that answers so many requests a minute answers again after one
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a file: ``values``, float64[rows, inputs], and the columns that are carried over as they are."""

    values: Table
    kept: tuple[tuple[str, ...], ...]  # one tuple for each row


def read_rows(path: Path, declaration: Declaration, keep: Sequence[str] = ()) -> Rows:
    """The declared columns of the CSV file ``path``, and those to ``keep``; other columns are left alone.

    Raises:
        UserError: no CSV file, a column is missing, no rows, or a cell that is no finite number. OSError.
    """
    text = io.StringIO(_text_of(path), newline="")
    try:
        reader = csv.reader(text, strict=True)
        header = next(reader, [])
        places = [_place(path, header, name) for name in declaration.inputs]
        kept = [_place(path, header, name) for name in keep]
        lines = list(reader)
    except csv.Error:
        raise UserError(f"{path}: cannot be read as CSV", "Save it as CSV in UTF-8, with one header line.") from None
    if not lines:
        raise UserError(f"{path}: no rows", "Give a CSV file with a header and at least one row.")
    values = np.empty((len(lines), len(places)), np.float64)
    for number, line in enumerate(lines):
        if len(line) != len(header):
            raise UserError(f"{path}: row {number + 1} has more or fewer fields than the header", "Mend the file.")
        for column, place in enumerate(places):
            values[number, column] = _number(path, number, header[place], line[place])
    return Rows(values, tuple(tuple(line[place] for place in kept) for line in lines))


def score_rows(client: ScoringClient, service: ProvedService, rows: Rows, say: Say) -> Table:
    """The scores, float64[rows, outputs], asked for in as many requests as the service's limits make of them.

    Raises:
        ScoringRefused: the service will not. ProtocolError: it, or who is between, broke the session.
    """
    declaration, most = (
        service.statement.declaration,
        rows_at_most(service.statement.declaration, service.statement.limits),
    )
    parts = []
    for start in range(0, len(rows.values), most):
        parts.append(_patiently(client, rows.values[start : start + most], say))
        if len(rows.values) > most:
            say(f"Scored {min(start + most, len(rows.values))} of {len(rows.values)} rows.")
    return np.concatenate(parts).reshape(len(rows.values), len(declaration.outputs))


def scores_csv(scores: Table, rows: Rows, declaration: Declaration, keep: Sequence[str]) -> bytes:
    """The kept columns and the scores as CSV, a row for each row of the input, in its order."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keep, *declaration.outputs])
    writer.writerows([*kept, *map(repr, line)] for kept, line in zip(rows.kept, scores.tolist(), strict=True))
    return text.getvalue().encode()


def _patiently(client: ScoringClient, values: Table, say: Say) -> Table:
    """One request; asked again for a while where the service has answered as many as it does in a minute."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return client.score(values)
        except ScoringRefused as error:
            if error.reason is not Reason.SCORING_RATE or time.monotonic() > until:
                raise
        say("The service answers no more in this minute; waiting.")
        time.sleep(_PAUSE_S)


def _text_of(path: Path) -> str:
    try:
        return read_bounded(path, _MAX_CSV_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8", "Save it as CSV in UTF-8.") from None


def _place(path: Path, header: Sequence[str], name: str) -> int:
    if header.count(name) != 1:
        raise UserError(f"{path}: column {name!r} must be there once", f"The file has: {', '.join(header) or 'none'}.")
    return header.index(name)


def _number(path: Path, row: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        hint = "Every declared column needs a number in every row; fill in or leave out rows where one is missing."
        raise UserError(f"{path}: row {row + 1}, column {column!r}: no finite number", hint)
    return value
