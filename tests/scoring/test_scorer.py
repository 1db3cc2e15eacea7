"""The process that scores: what it can reach, the example's own scores, and an app that answers wrongly."""

from __future__ import annotations

import contextlib
import csv
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recipient.declaration import read_declaration
from recipient.scorer import Scorer, ScorerSpec, joined_scores
from tests.scoring.example import DATA, EXAMPLE, plain_scores
from tests.worker.flower_apps import LAYOUT, write_app
from trusted.apps.bundle import build_bundle, bundle_digest, unpack_bundle
from trusted.documents.layout import Layout
from trusted.errors import AppError, Reason
from trusted.hpke import SealingKey
from trusted.scoring.terms import Declaration
from worker.app_log import Reader, open_log

MODEL = np.arange(LAYOUT.elements, dtype=np.float32)
READER_KEY = SealingKey.generate()
DECLARED = Declaration(("x", "y"), ("sum", "weighted"), None)
QUERY = """

@app.query()
def query(message, context):
    arrays = taken(message)
    inputs = {name: array.numpy() for name, array in message.content["inputs"].items()}
"""
SCORES = """\
    scores = {"sum": inputs["x"] + inputs["y"], "weighted": inputs["x"] * arrays["w"][1, 2]}
"""
ANSWER = """\
    content = {"scores": ArrayRecord({name: Array(np.asarray(value)) for name, value in scores.items()})}
    return Message(RecordDict(content), reply_to=message)
"""


@pytest.fixture(autouse=True)
def alone() -> None:
    """A runtime forks before it has threads. These tests come early (tests/conftest.py)."""
    deadline = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == 1, threading.enumerate()


@contextlib.contextmanager
def scorer(tmp_path: Path, body: str = SCORES, declared: Declaration = DECLARED) -> Iterator[Scorer]:
    source = write_app(tmp_path / "source")
    client = next(source.glob("*/client_app.py"))
    client.write_text(client.read_text() + (QUERY + body + ANSWER if body else ""))
    data = build_bundle(source)
    app = unpack_bundle(data, expected=bundle_digest(data), into=tmp_path / "app")
    running = Scorer.start(spec_of(tmp_path, app, LAYOUT, declared))
    try:
        running.load(MODEL)
        yield running
    finally:
        running.wipe()


def spec_of(tmp_path: Path, app: Path, layout: Layout, declared: Declaration) -> ScorerSpec:
    for folder in ("scratch", "empty"):
        (tmp_path / folder).mkdir()
    return ScorerSpec(
        app_dir=app,
        layout=layout,
        config={},
        declaration=declared,
        max_rows=4,
        log_file=tmp_path / "app.log",
        scratch=tmp_path / "scratch",
        empty=tmp_path / "empty",
        log_reader=Reader("site-1", bytes(32), READER_KEY.public),
    )


def refused(running: Scorer, *, timeout_s: float = 30) -> Reason:
    with pytest.raises(AppError) as caught:
        running.score(np.ones((2, 2)), timeout_s)
    return caught.value.reason


def test_rows_are_scored_with_the_model_and_nothing_stays_in_shared_memory(tmp_path):
    values = np.array([[1.0, 2.0], [3.0, 4.0], [0.5, 0.25]])
    with scorer(tmp_path) as running:
        for rows in (3, 1, 2):
            expected = np.column_stack((values.sum(1), values[:, 0] * MODEL[5]))[:rows]
            np.testing.assert_array_equal(running.score(values[:rows], 30), expected)
            assert not any(np.frombuffer(shared, np.uint8).any() for shared in shared_memory(running))


def shared_memory(running: Scorer) -> tuple[object, ...]:
    return running._model, running._rows, running._scores


def test_a_wiped_scorer_has_ended_and_scores_nothing(tmp_path):
    with scorer(tmp_path) as running:
        pid = running._child.pid
        running.wipe()
        running.wipe()
        assert refused(running) is Reason.APP_FAILED
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_question_finds_nothing_of_another_in_its_context(tmp_path):
    body = """\
    seen = context.state.array_records.get("seen")
    context.state["seen"] = ArrayRecord({"x": Array(inputs["x"])})
    scores = {"sum": inputs["x"], "weighted": np.zeros(len(inputs["x"])) + (seen is not None)}
"""
    with scorer(tmp_path, body) as running:
        for _ in range(2):
            assert not running.score(np.ones((2, 2)), 30)[:, 1].any()


def test_scores_are_rounded_as_declared(tmp_path):
    with scorer(tmp_path, declared=Declaration(DECLARED.inputs, DECLARED.outputs, 1)) as running:
        np.testing.assert_array_equal(running.score(np.array([[0.123, 0.456]]), 30)[:, 0], [0.6])


WRONG = {
    '{"sum": x}': Reason.APP_REPLY,  # a score is missing
    '{"sum": x, "weighted": x, "more": x}': Reason.APP_REPLY,
    '{"sum": x, "weighted": x[:1]}': Reason.APP_REPLY,  # fewer rows
    '{"sum": x, "weighted": np.tile(x, (9, 1)).T}': Reason.APP_REPLY,  # wider
    '{"sum": x, "weighted": x * np.nan}': Reason.APP_REPLY,
    '{"sum": x, "weighted": x.astype(str)}': Reason.APP_REPLY,
    'int("row of Ada")': Reason.APP_FAILED,
}


def test_an_app_that_answers_wrongly_costs_one_question_and_its_words_stay_in_its_log(tmp_path, capfd):
    cases = ", ".join(f"lambda: {scores}" for scores in WRONG)
    body = f"""\
    x = inputs["x"]
    cases = [lambda: {{"sum": x, "weighted": x}}, {cases}]
    scores = cases[int(x[0])]()
"""
    with scorer(tmp_path, body) as running:
        for number, reason in enumerate(WRONG.values(), 1):
            with pytest.raises(AppError) as caught:
                running.score(np.full((2, 2), float(number)), 30)
            assert caught.value.reason is reason
            assert not running.score(np.zeros((2, 2)), 30).any()
    assert b"row of Ada" not in (tmp_path / "app.log").read_bytes()
    with (tmp_path / "app.log").open("rb") as file:
        assert b"row of Ada" in b"".join(start.words for start in open_log(file, READER_KEY))
    assert "Ada" not in "".join(capfd.readouterr())


def test_an_app_that_hangs_is_cut_off(tmp_path):
    with scorer(tmp_path, "    import time; time.sleep(600); scores = {}\n") as running:
        assert refused(running, timeout_s=0.3) is Reason.APP_TIMEOUT
        assert refused(running) is Reason.APP_FAILED


def test_an_app_without_queries_is_refused_at_the_start(tmp_path):
    with pytest.raises(AppError) as caught, scorer(tmp_path, ""):
        pass
    assert caught.value.reason is Reason.BUNDLE_MALFORMED


def test_the_app_reaches_neither_the_network_nor_other_files(tmp_path):
    (tmp_path / "secret").write_text("a key")
    body = f"""\
    import socket
    reached = []
    for attempt in (lambda: socket.socket(), lambda: open({str(tmp_path / "secret")!r})):
        try:
            attempt()
            reached.append(1)
        except OSError:
            reached.append(0)
    scores = {{"sum": np.full(len(inputs["x"]), sum(reached)), "weighted": inputs["x"]}}
"""
    with scorer(tmp_path, body) as running:
        assert running.features
        assert not running.score(np.ones((1, 2)), 30)[:, 0].any()


def test_a_caller_that_has_threads_is_told(tmp_path):
    blocked = threading.Event()
    thread = threading.Thread(target=blocked.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="before threads"):
            Scorer.start(spec_of(tmp_path, tmp_path, LAYOUT, DECLARED))
    finally:
        blocked.set()
        thread.join()


# The example.


def declared_by(tmp_path: Path, table: str) -> Declaration:
    (tmp_path / "pyproject.toml").write_text(table)
    return read_declaration(tmp_path, ("x", "y"))


def test_a_declaration_is_read_from_the_bundle(tmp_path):
    said = declared_by(tmp_path, '[tool.cloister.scoring]\ninputs = ["y", "x"]\noutputs = ["risk"]\ndigits = 3\n')
    assert said == Declaration(("y", "x"), ("risk",), 3)


@pytest.mark.parametrize(
    "table",
    [
        "",
        "[tool.cloister]\nscoring = 3\n",
        '[tool.cloister.scoring]\ninputs = ["z"]\noutputs = ["risk"]\n',
        '[tool.cloister.scoring]\ninputs = ["x"]\n',
        "not toml",
    ],
    ids=["none", "no table", "a column that the plan does not have", "no outputs", "no toml"],
)
def test_an_app_that_does_not_say_what_it_scores_is_refused(tmp_path, table):
    with pytest.raises(AppError) as caught:
        declared_by(tmp_path, table)
    assert caught.value.reason is Reason.SCORING_DECLARATION


def test_joined_scores_are_of_any_real_dtype():
    answered = {"sum": np.array([1, 2], np.int64), "weighted": np.array([0.5, 0.25], np.float32)}
    np.testing.assert_array_equal(joined_scores(DECLARED, answered, 2, print), [[1, 0.5], [2, 0.25]])


def test_the_example_scores_in_its_process_as_it_does_in_plain_python(tmp_path):
    data = build_bundle(EXAMPLE)
    app = unpack_bundle(data, expected=bundle_digest(data), into=tmp_path / "app")
    with DATA.open(newline="") as lines:
        rows = list(csv.DictReader(lines))[:4]
    declared = read_declaration(app, tuple(rows[0]))
    values = np.array([[float(row[name]) for name in declared.inputs] for row in rows])
    layout, vector, expected = plain_scores(declared, values)
    running = Scorer.start(spec_of(tmp_path, app, layout, declared))
    try:
        running.load(vector)
        np.testing.assert_array_equal(running.score(values, 60), expected)
    finally:
        running.wipe()
