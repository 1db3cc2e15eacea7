"""What a host says in events reaches a person only in the form that events have."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.client import shown_fields
from coordinator.host.events import FIELDS
from coordinator.host.run_status import RunStatus
from trusted.errors import Reason, RunError

PLAN = b"\x11" * 32
HOSTILE = ["\x1b[2J", "[link=http://evil.example]x[/link]", "a\nb", "", "x" * 97, True, -1, [], {}]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("field", ["event", "member", "assurance", "measurement", "reason", "waiting_for"])
def test_an_event_cannot_steer_the_terminal(field: str, value: Any) -> None:
    fields = shown_fields(json.dumps({"event": "admitted", field: value}), PLAN)
    if field in fields and field != "event":
        assert FIELDS[field](fields[field])
    assert fields["event"] in ("admitted", "unnamed")
    assert "\x1b" not in repr(fields)


def test_a_field_that_is_not_on_the_list_is_dropped() -> None:
    assert "note" not in shown_fields('{"event":"admitted","note":"look here"}', PLAN)


@pytest.mark.parametrize("text", ["", "1", "[]", "{", "[" * 100_000])
def test_what_is_no_event_is_refused(text: str) -> None:
    with pytest.raises(RunError) as refused:
        shown_fields(text, PLAN)
    assert refused.value.reason is Reason.MALFORMED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*FIELDS, "other"]), JSON, max_size=8))
def test_whatever_a_host_says_folds_into_a_status(said: dict[str, Any]) -> None:
    RunStatus(PLAN.hex()).after(shown_fields(json.dumps(said), PLAN)).encode()
