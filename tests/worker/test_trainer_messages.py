"""A worker under an app's own server: messages through the trainer's process, one answer to each, sent as often."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_bytes

import numpy as np
import pytest

from tests.worker.test_contribution import SITES, WHOLE, Store
from tests.worker.trainer_processes import spec_of
from trusted.apps.messages import AppMessage, AppRecord, RecordKind
from trusted.blob import BlobKind, open_vector
from trusted.documents.terms import Exchange
from trusted.errors import AppError, BlobError, Reason
from trusted.exchange import AGGREGATOR, Exchanged
from worker.contribution import Contributor
from worker.participant import Respond
from worker.trainer_process import TrainerProcess

SIZE = 1 << 16
NODE = (1 << 51) + 7
BODY = """\
seen = context.state.metric_records.get("seen", MetricRecord({"rounds": 0}))["rounds"] + 1
context.state["seen"] = MetricRecord({"rounds": seen})
said = message.content["config"]["said"]
if said == "raise":
    raise ValueError("words of a patient")
if said == "much":
    return answered(message, {"w": np.zeros(1 << 16, "u1")}, {"num-examples": 1})
if said == "error":
    return Message(Error(2, "words of a patient"), reply_to=message)
if said == "nothing":
    return None
arrays["w"] = arrays["w"] + np.float32(1)
return answered(message, arrays, {"num-examples": 7, "seen": seen, "is-node": int(context.node_id == NODE)})
""".replace("NODE", str(NODE))


@pytest.fixture(autouse=True)
def alone() -> None:
    """A worker forks before it has threads; what is left of other tests ends by itself."""
    deadline = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.05)


@contextmanager
def trainer(tmp_path: Path) -> Iterator[TrainerProcess]:
    process = TrainerProcess.start(replace(spec_of(tmp_path, BODY), message_bytes=SIZE), timeout_s=60)
    try:
        yield process
    finally:
        process.stop()


def message(said: str = "train") -> bytes:
    arrays = AppRecord("arrays", RecordKind.ARRAYS, {"w": np.arange(6, dtype="f4").reshape(2, 3)})
    config = AppRecord("config", RecordKind.CONFIG, {"said": said})
    return AppMessage("train", "3", (arrays, config)).encode(SIZE)


def test_the_app_answers_as_the_node_it_is_and_remembers_between_messages(tmp_path: Path) -> None:
    with trainer(tmp_path) as process:
        for number in (1, 2):
            answer = process.respond(message(), NODE, number, 30)
            assert len(answer) == SIZE
            read = AppMessage.parse(answer)
            records = {record.name: record.values for record in read.records}
            assert (read.kind, read.group) == ("train", "3")
            np.testing.assert_array_equal(records["arrays"]["w"], np.arange(6).reshape(2, 3) + 1)
            assert records["metrics"] == {"num-examples": 7, "seen": number, "is-node": 1}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("raise", Reason.APP_FAILED),
        ("error", Reason.APP_FAILED),
        ("nothing", Reason.APP_FAILED),
        ("much", Reason.MESSAGE_SIZE),
    ],
)
def test_an_answer_that_cannot_be_sent_has_a_reason_and_no_words(tmp_path: Path, said: str, reason: Reason) -> None:
    with trainer(tmp_path) as process:
        with pytest.raises(AppError) as caught:
            process.respond(message(said), NODE, 1, 30)
        assert caught.value.reason is reason
        assert "patient" not in str(caught.value)
        process.respond(message(), NODE, 2, 30)


def test_what_is_no_message_or_has_another_size_reaches_no_app(tmp_path: Path) -> None:
    with trainer(tmp_path) as process:
        with pytest.raises(AppError) as caught:
            process.respond(bytes(SIZE), NODE, 1, 30)
        assert caught.value.reason is Reason.MESSAGE_FORM
        with pytest.raises(ValueError, match="message size"):
            process.respond(bytes(7), NODE, 1, 30)


def test_a_trainer_of_a_plan_without_messages_takes_none(tmp_path: Path) -> None:
    process = TrainerProcess.start(spec_of(tmp_path, BODY), timeout_s=60)
    try:
        with pytest.raises(ValueError, match="message size"):
            process.respond(message(), NODE, 1, 30)
    finally:
        process.stop()


class Echo:
    """Stands for the trainer: answers the same, and counts how often."""

    def __init__(self) -> None:
        self.asked = 0

    def respond(self, content: bytes, node: int, number: int, timeout_s: float) -> bytes:
        self.asked += 1
        return b"\xff\xc0\x00\x7f" * (SIZE // 4)  # as float32: NaN


def contributor(app: Echo) -> tuple[Contributor, Store, Respond]:
    exchanged, store = Exchanged(bytes(32), WHOLE, WHOLE, Exchange(), SIZE), Store()
    site = Contributor(
        exchanged=exchanged,
        transport=store,
        trainer=app,
        signing_key=SITES,
        allowed_metrics=frozenset(),
        train_timeout_s=30,
    )
    words = np.frombuffer(message(), "<f4")
    sent = store.sealed(exchanged.header(BlobKind.MESSAGE, 1, AGGREGATOR), words)
    return site, store, Respond(1, NODE, sent, token_bytes(16), exchanged.header(BlobKind.REPLY, 1, "site-1"))


def opened(store: Store, task: Respond, said: dict[str, str]) -> bytes:
    from trusted.blob import ContentKey

    words = np.empty(SIZE // 4, "<f4")
    verify_key, key = SITES.public_key().public_bytes_raw(), ContentKey(bytes.fromhex(said["key"]))
    open_vector([store.blobs[task.upload]], words, expected=task.upload_header, key=key, verify_key=verify_key)
    return words.tobytes()


def test_an_answer_of_any_bytes_is_sealed_once_and_sent_as_often_as_it_is_asked_for() -> None:
    app = Echo()
    site, store, task = contributor(app)
    first = site.respond(task, lambda stage, percent: None).message()
    sealed = store.blobs[task.upload]
    again = site.respond(task, lambda stage, percent: None).message()
    assert (first, sealed, app.asked) == (again, store.blobs[task.upload], 1)
    assert first["type"] == "reply"
    assert opened(store, task, first) == b"\xff\xc0\x00\x7f" * (SIZE // 4)


def test_a_message_that_the_host_altered_reaches_no_app() -> None:
    app = Echo()
    site, store, task = contributor(app)
    stored = bytearray(store.blobs[task.model.blob])
    stored[-1] ^= 1
    store.blobs[task.model.blob] = bytes(stored)
    with pytest.raises(BlobError):
        site.respond(task, lambda stage, percent: None)
    assert app.asked == 0
