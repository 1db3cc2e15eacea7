"""When a worker takes a refusal for a wrong clock: only after an aggregator proved itself, and for one lease."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from trusted.errors import AttestationError, DocumentError, ProtocolError, Reason, RoundError
from worker.__main__ import _Doubt

PROVED: Any = SimpleNamespace(aggregator=object())
UNPROVED: Any = SimpleNamespace(aggregator=None)
EXPIRED = DocumentError(Reason.DOCUMENT_EXPIRED, "plan.not_after: over")


def test_a_first_start_with_papers_that_have_expired_is_refused_at_once() -> None:
    doubt = _Doubt(60)
    doubt.trusted(UNPROVED)
    assert not doubt.may_be_the_clock(EXPIRED)


def test_a_worker_that_was_in_a_session_waits_one_lease_for_the_clock() -> None:
    doubt = _Doubt(0.3)
    doubt.trusted(PROVED)
    assert doubt.may_be_the_clock(EXPIRED)
    doubt.trusted(UNPROVED)  # the next attempt fails before anybody proves anything
    assert doubt.may_be_the_clock(EXPIRED)
    doubt.trusted(PROVED)  # nor does one that gets further, and fails for the same reason, begin anew
    time.sleep(0.35)
    assert not doubt.may_be_the_clock(EXPIRED)


def test_a_session_that_ends_for_no_reason_of_time_gives_the_whole_lease_back() -> None:
    doubt = _Doubt(0.3)
    doubt.trusted(PROVED)
    assert doubt.may_be_the_clock(EXPIRED)
    time.sleep(0.35)
    doubt.settled()
    assert doubt.may_be_the_clock(EXPIRED)


@pytest.mark.parametrize(
    "error",
    [
        AttestationError(Reason.MEASUREMENT, "measurement: not the charter's"),
        AttestationError(Reason.REVOKED, "certificate: revoked"),
        DocumentError(Reason.THRESHOLD, "plan: too few signatures"),
        RoundError(Reason.SITE_REFUSES, "task.round: beyond what the site allows"),
    ],
)
def test_what_no_clock_explains_is_refused_at_once(error: ProtocolError) -> None:
    doubt = _Doubt(60)
    doubt.trusted(PROVED)
    assert not doubt.may_be_the_clock(error)
