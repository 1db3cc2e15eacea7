"""What people give and get: CSV files, options, and what `model attest` and `score` refuse before anything is sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from console.output import UserError
from console.running import sentence_of
from console.scoring import read_rows, score_rows, scores_csv
from console.serving import Service
from tests.console.conftest import cloister as cloister
from tests.scoring.sides import Service as Inside
from tests.scoring.sides import opened, request, statement
from trusted.documents.terms.scoring import ScoringLimits
from trusted.errors import Reason
from trusted.scoring.messages import ScoringRefused
from trusted.scoring.terms import Declaration

DECLARED = Declaration(("b", "a"), ("risk",), None)


def csv_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_declared_columns_are_read_in_their_order_and_others_left_alone(tmp_path):
    rows = read_rows(csv_file(tmp_path, "\ufeffid,a,secret,b\r\nx,1,s,2e0\r\ny,-3,t,4\r\n"), DECLARED, ["id"])
    np.testing.assert_array_equal(rows.values, [[2, 1], [4, -3]])
    assert rows.kept == (("x",), ("y",))
    assert scores_csv(np.array([[0.1], [0.2]]), rows, DECLARED, ["id"]) == b"id,risk\nx,0.1\ny,0.2\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,c\n1,2\n", "column 'b' must be there once"),
        ("a,b,b\n1,2,3\n", "column 'b' must be there once"),
        ("a,b\n", "no rows"),
        ("a,b\n1,2\n3\n", "row 2 has more or fewer fields"),
        ("a,b\n1,2\n3,Ada\n", "row 2, column 'b': no finite number"),
        ("a,b\n1,nan\n", "row 1, column 'b': no finite number"),
        ("a,b\n1,\n", "row 1, column 'b': no finite number"),
        ("", "column 'b' must be there once"),
    ],
)
def test_what_cannot_be_scored_is_named_by_row_and_column_and_never_quoted(tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        read_rows(csv_file(tmp_path, text), DECLARED)
    assert words in caught.value.message
    assert "Ada" not in caught.value.message + caught.value.hint


def test_a_file_that_is_no_text_is_said_so(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_rows(tmp_path / "rows.csv", DECLARED)


class Line:
    """A client without a wire, whose service refuses when the test says so."""

    def __init__(self, world, inside: Inside) -> None:
        self.pair, self.inside = opened(world, said=statement(world, limits=inside.limits)), inside

    def score(self, values):
        client, session = self.pair
        asked = request(session, client.ask(values))
        return client.take_answer(session.answer(self.inside.answer(asked)))


def test_many_rows_are_asked_in_as_many_requests_as_the_limits_make(world, tmp_path):
    inside, said = Inside(world, limits=ScoringLimits(4, 10, 10)), []
    line = Line(world, inside)
    table = read_rows(csv_file(tmp_path, "x\n" + "\n".join(map(str, range(10)))), statement(world).declaration)
    scores = score_rows(line, line.pair[0].service, table, said.append)
    np.testing.assert_array_equal(scores[:, 0], range(10))
    assert [len(values) for values in inside.formula.asked] == [4, 4, 2]
    assert said[-1] == "Scored 10 of 10 rows."


def test_a_minute_that_is_used_up_is_waited_for_and_anything_else_is_not(world, tmp_path, monkeypatch):
    inside = Inside(world, limits=ScoringLimits(1, 2, 3))
    line, pauses = Line(world, inside), []

    def passes(seconds: float) -> None:
        pauses.append(seconds)
        inside.counted_s += seconds
        inside.desk.tenure.confirm(inside.counted_s)

    monkeypatch.setattr("console.scoring.time.sleep", passes)
    table = read_rows(csv_file(tmp_path, "x\n1\n2\n3\n4\n"), statement(world).declaration)
    with pytest.raises(ScoringRefused) as caught:
        score_rows(line, line.pair[0].service, table, lambda said: None)
    assert caught.value.reason is Reason.SCORING_SPENT
    assert sum(pauses) == 60


@pytest.mark.parametrize("listen", ["127.0.0.1", "http://127.0.0.1:", "127.0.0.1:0", "127.0.0.1:70000"])
def test_an_address_without_a_port_is_refused(listen):
    with pytest.raises(UserError, match="no port"):
        _ = Service("site-1", "broker:1", None, listen, ScoringLimits(), 30).port


@pytest.mark.parametrize("digest", ["00", "zz" * 32])
def test_a_digest_that_is_none_is_refused(cloister, tmp_path, world, digest):
    for name, envelope in (("charter", world.charter.envelope), ("plan", world.plan.envelope)):
        (tmp_path / name).write_bytes(envelope)
    papers = ["--charter", tmp_path / "charter", "--plan", tmp_path / "plan"]
    answer = cloister("model", "attest", "http://127.0.0.1:9", *papers, "--model-sha256", digest)
    assert (answer.code, answer.error["code"]) == (1, "CLI-001")


def test_a_service_out_of_reach_is_exit_code_6(cloister, tmp_path, world):
    for name, envelope in (("charter", world.charter.envelope), ("plan", world.plan.envelope)):
        (tmp_path / name).write_bytes(envelope)
    answer = cloister(
        "model", "attest", "http://127.0.0.1:9", "--charter", tmp_path / "charter", "--plan", tmp_path / "plan"
    )
    assert (answer.code, answer.error["code"]) == (6, Reason.UNREACHABLE.code)


@pytest.mark.parametrize(
    "entry",
    [
        {"event": "release-verified", "rounds": 3, "model": "ab" * 32},
        {"event": "scorer-started"},
        {"event": "model-opened", "until": "2027-01-01T00:00:00Z"},
        {"event": "serving", "port": 8446},
        {"event": "grant-not-renewed", "reason": "RUN-707"},
        {"event": "model-wiped", "reason": "KEY-1106", "requests": 7},
        {"event": "recipient-refused", "reason": "KEY-1127", "name": "SCORING_DECLARATION", "detail": "x"},
    ],
)
def test_what_matters_to_an_operator_is_said_in_words(entry):
    assert sentence_of(entry)
