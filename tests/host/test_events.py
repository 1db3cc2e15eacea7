"""The allow-list: nothing but the named fields, in their forms, is stored, shown or logged."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.host.events import FIELDS, AllowListFormatter, decode_event, public_event
from coordinator.host.run_status import RunState, RunStatus
from tests.host.conftest import PLAN, RunningHost
from tests.world import NOW
from trusted.errors import ProtocolError

GOOD = {
    "ts": "2026-01-02T03:04:05Z",
    "event": "contribution",
    "round": 3,
    "rounds": 9,
    "member": "site-1",
    "session": 7,
    "outcome": "train 50 %",
    "reason": "RND-601",
    "bytes": 10,
    "seconds": 1.5,
    "assurance": "none",
    "measurement": "ab" * 48,
    "waiting_for": ["site-1", "site-2"],
    "metrics": {"auc": 0.5},
    "withheld": ["auc:min_sites"],
    "ear": "eyJ.e30.c2ln",
    "size": 12,
    "root": "cd" * 32,
    "held": "12:" + "cd" * 32,
    "offered": "7:" + "ef" * 32,
}
SECRET = "patient Jane Doe, born 1970"
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


def test_every_listed_field_passes_in_its_form() -> None:
    event = public_event(GOOD, plan=PLAN, now=NOW)
    assert event.dropped == 0
    assert event.fields == GOOD | {"plan": PLAN.hex()}
    assert set(event.fields) == set(FIELDS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("payload", SECRET),
        ("loss", 0.1),
        ("member", SECRET),
        ("outcome", SECRET),
        ("outcome", "a" * 33),
        ("ear", SECRET),
        ("ear", "eyJ.e30"),
        ("ear", f"eyJ.{'a' * 32769}.c2ln"),
        ("reason", SECRET),
        ("round", "3"),
        ("round", -1),
        ("round", True),
        ("bytes", 1.5),
        ("seconds", float("nan")),
        ("measurement", "zz"),
        ("waiting_for", [SECRET]),
        ("waiting_for", ["a"] * 257),
        ("metrics", {"auc": "0.5"}),
        ("withheld", {"auc": 0.5}),
        ("withheld", [SECRET]),
        ("metrics", {SECRET: 0.5}),
        ("size", -1),
        ("size", "12"),
        ("root", "zz"),
        ("held", "cd" * 32),
        ("held", ":" + "cd" * 32),
        ("held", "12:" + "cd" * 31),
        ("held", "12:" + "cd" * 33),
        ("held", "1" * 17 + ":" + "cd" * 32),
        ("offered", "12:" + "CD" * 32),
        ("offered", f"12:{SECRET}"),
        ("offered", "12:" + "cd" * 32 + "\n"),
        ("offered", 12),
        ("ts", "now"),
        ("event", SECRET),
    ],
)
def test_another_field_or_form_is_dropped_and_counted(key: str, value: object) -> None:
    event = public_event(GOOD | {key: value}, plan=PLAN, now=NOW)
    assert event.dropped == 1
    assert SECRET not in event.encode()
    assert event.fields.get(key) != value


def test_the_plan_is_never_what_an_event_claims() -> None:
    assert public_event({"event": "x", "plan": "ff" * 32}, plan=PLAN, now=NOW).fields["plan"] == PLAN.hex()


@given(st.dictionaries(st.sampled_from([*FIELDS, "payload", "key"]), anything))
def test_any_event_is_made_public_safely_and_can_be_folded(claimed: dict[str, object]) -> None:
    event = public_event(claimed, plan=PLAN, now=NOW)
    assert set(event.fields) <= set(FIELDS)
    status = RunStatus(PLAN.hex()).after(json.loads(event.encode()))
    assert RunStatus.decode(status.encode()) == status


@given(st.binary(max_size=200))
def test_any_bytes_become_an_event(body: bytes) -> None:
    assert decode_event(body, plan=PLAN, now=NOW).name


@given(st.text(max_size=200))
def test_any_status_text_is_decoded_or_refused(text: str) -> None:
    with suppress(ProtocolError):
        RunStatus.decode(text)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 5000, b'{"a":' * 3000, b"1" * 70_000])
def test_what_is_no_event_becomes_an_unreadable_one(body: bytes) -> None:
    event = decode_event(body, plan=PLAN, now=NOW)
    assert event.name == "unreadable"
    assert event.fields["bytes"] == len(body)


def test_a_dropped_field_is_counted_by_the_host_and_shown_to_nobody(host: RunningHost) -> None:
    peer, events = host.door(), host.client().watch(PLAN)
    next(events)
    peer.event(event="contribution", outcome="counted", payload=SECRET, member="a")
    event = next(events)
    assert SECRET not in json.dumps(dict(event.fields))
    assert host.metric("cloister_egress_blocked_total", rule="event-field") == 1
    assert host.metric("cloister_round_participants_total", outcome="included") == 1


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("grpc", logging.ERROR, "file", 1, message, args, None)
    made.__dict__.update(extra)
    return made


def test_a_log_line_holds_listed_fields_alone() -> None:
    line = json.loads(AllowListFormatter().format(record("admitted", member="site-1", body=SECRET, peer=SECRET)))
    assert line == line | {"event": "admitted", "member": "site-1", "level": "error"}
    assert SECRET not in json.dumps(line)


def test_a_librarys_words_arguments_and_exception_texts_are_not_logged() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        made = record(f"failed on {SECRET}")
        made.exc_info = sys.exc_info()
    text = AllowListFormatter().format(made) + AllowListFormatter().format(record("failed: %s", SECRET))
    assert SECRET not in text
    assert "ValueError" in text


def fold(*events: Mapping[str, object]) -> RunStatus:
    status = RunStatus(PLAN.hex())
    for fields in events:
        status = status.after(public_event(fields, plan=PLAN, now=NOW).fields)
    return status


@pytest.mark.parametrize("outcome", ["finished", "stopped", "abandoned"])
def test_a_run_that_ended_stays_ended(outcome: str) -> None:
    status = fold({"event": "run-started"}, {"event": "run-ended", "outcome": outcome}, {"event": "round-opened"})
    assert status.state is RunState(outcome)
    assert status.state.is_over


def test_an_end_without_a_known_outcome_changes_nothing() -> None:
    assert fold({"event": "run-started"}, {"event": "run-ended", "outcome": "waiting"}).state is RunState.RUNNING


def test_waiting_ends_with_the_round() -> None:
    opened = {"event": "round-opened", "round": 1, "waiting_for": ["a", "b"]}
    answered = {"event": "contribution", "member": "a", "outcome": "refused"}
    assert fold(opened, answered).waiting_for == ("b",)
    assert fold(opened, {"event": "progress", "member": "a"}).waiting_for == ("a", "b")
    for end in (
        {"event": "round-committed"},
        {"event": "round-abandoned"},
        {"event": "run-ended", "outcome": "stopped"},
    ):
        assert fold(opened, end).waiting_for == ()
    assert fold(opened, {"event": "round-committed"}).committed == 1
