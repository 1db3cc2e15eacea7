"""How much is answered, and until when; what a request may hold."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from recipient.quota import Quota
from tests.scoring.sides import DECLARATION, LIMITS, RECIPIENT, ROWS, Service, opened, scored
from tests.world import NOW
from trusted.documents.terms.scoring import ScoringLimits
from trusted.errors import ProtocolError, Reason
from trusted.scoring.messages import BUCKETS, Request, decode_answer, encode_refusal, encode_scores, rows_at_most
from trusted.scoring.terms import Declaration, Statement
from trusted.wire import pack


def refusal_of(call, *arguments) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        call(*arguments)
    return caught.value.reason


def test_one_client_is_answered_so_often_a_minute_and_no_oftener(world):
    service, pair = Service(world), opened(world)
    for _ in range(LIMITS.requests_per_minute):
        scored(pair, service)
    assert refusal_of(scored, pair, service) is Reason.SCORING_RATE
    service.counted_s += 59.9
    assert refusal_of(scored, pair, service) is Reason.SCORING_RATE
    service.counted_s += 0.1
    scored(pair, service)


def test_another_connection_of_the_same_member_shares_its_quota(world):
    service = Service(world)
    for _ in range(LIMITS.requests_per_minute):
        scored(opened(world), service)
    assert refusal_of(scored, opened(world), service) is Reason.SCORING_RATE


def test_clients_do_not_share_a_minute_and_do_share_the_total():
    quota = Quota(ScoringLimits(1, 2, 3))
    quota.take("a", 0.0)
    quota.take("a", 1.0)
    quota.take("b", 1.0)
    assert refusal_of(quota.take, "c", 1.0) is Reason.SCORING_SPENT
    assert quota.total == 3


def test_all_requests_together_end_at_the_total_and_no_time_brings_more(world):
    service, pair = Service(world), opened(world)
    for _ in range(LIMITS.requests_total):
        scored(pair, service)
        service.counted_s += 30
        service.desk.tenure.confirm(service.counted_s)
    assert refusal_of(scored, pair, service) is Reason.SCORING_SPENT
    service.counted_s += 60
    assert refusal_of(scored, pair, service) is Reason.SCORING_SPENT


def test_a_refused_request_counts_too(world):
    service, pair = Service(world), opened(world)
    for _ in range(LIMITS.requests_per_minute):
        assert refusal_of(scored, pair, service, np.full((1, 1), np.inf)) is Reason.SCORING_REQUEST
    assert refusal_of(scored, pair, service) is Reason.SCORING_RATE
    assert service.formula.asked == []


def test_so_many_rows_are_scored_and_not_one_more(world):
    service, pair = Service(world), opened(world)
    assert len(scored(pair, service, np.ones((LIMITS.rows_per_request, 1)))) == LIMITS.rows_per_request
    more = np.ones((LIMITS.rows_per_request + 1, 1))
    assert refusal_of(scored, pair, service, more) is Reason.SCORING_ROWS


def test_the_model_is_wiped_when_the_grant_ends_and_not_before(world):
    service, pair = Service(world), opened(world)
    service.now = NOW + timedelta(minutes=59, seconds=59)
    scored(pair, service)
    assert service.formula.wiped == 0
    service.now = NOW + timedelta(hours=1)
    assert refusal_of(scored, pair, service) is Reason.GRANT_EXPIRED
    assert service.formula.wiped == 1
    service.now = NOW  # a host that sets the clock back brings nothing back
    assert refusal_of(scored, pair, service) is Reason.GRANT_EXPIRED
    assert service.formula.wiped == 1
    assert [line["event"] for line in service.lines[1:3]] == ["model-wiped", "request-refused"]


def test_the_model_is_wiped_when_the_broker_does_not_confirm_in_time(world):
    service, pair = Service(world), opened(world)
    service.counted_s += 70
    scored(pair, service)
    service.counted_s += 0.1
    assert refusal_of(scored, pair, service) is Reason.LEASE_EXPIRED
    service.desk.tenure.confirm(service.counted_s)
    assert refusal_of(scored, pair, service) is Reason.LEASE_EXPIRED
    assert service.formula.wiped == 1


def test_a_confirmed_grant_goes_on(world):
    service, pair = Service(world), opened(world)
    assert not service.desk.tenure.is_due(service.counted_s + 59)
    assert service.desk.tenure.is_due(service.counted_s + 60)
    service.desk.tenure.confirm(service.counted_s + 60)
    service.counted_s += 120
    scored(pair, service)


def test_a_revoked_grant_wipes_at_once_and_the_first_reason_stands(world):
    service, pair = Service(world), opened(world)
    service.desk.end(Reason.GRANT_REVOKED)
    service.desk.end(Reason.SCORING_DRAINS)
    assert refusal_of(scored, pair, service) is Reason.GRANT_REVOKED
    assert service.formula.wiped == 1


def test_an_app_that_was_cut_off_ends_the_service(world):
    from trusted.errors import AppError

    service, pair = Service(world), opened(world)

    def hangs(values, timeout_s):
        raise AppError(Reason.APP_TIMEOUT, "app: too slow")

    service.formula.score = hangs
    assert refusal_of(scored, pair, service) is Reason.APP_TIMEOUT
    assert refusal_of(scored, pair, service) is Reason.SCORING_ENDED
    assert service.formula.wiped == 1


def test_no_line_holds_rows_or_scores(world):
    service, pair = Service(world), opened(world)
    rows = np.array([[0.123456789], [0.987654321]])
    scored(pair, service, rows)
    assert service.lines == [{"event": "scored", "member": RECIPIENT, "rows": 2, "requests": 1}]


# What a message may hold.


def test_the_largest_message_holds_as_many_rows_as_it_says_and_not_one_more():
    wide = Declaration(tuple(f"c{n}" for n in range(100)), ("a",), None)
    most = rows_at_most(wide, ScoringLimits(rows_per_request=60_000))
    values = np.ones((most, 100))
    assert len(Request.decode(Request(values).encode(), wide, ScoringLimits(60_000)).values) == most
    assert len(Request(values).encode()) == BUCKETS[-1]
    assert refusal_of(Request(np.ones((most + 1, 100))).encode) is Reason.SCORING_ROWS


@pytest.mark.parametrize(
    ("rows", "data"),
    [(0, b""), (2, bytes(8)), (1, bytes(16)), (1, bytes(7)), (1 << 31, bytes(8))],
    ids=["no rows", "too few numbers", "too many", "half a number", "rows without end"],
)
def test_a_request_that_is_none_is_refused(rows, data):
    bare = pack("cloister/scoring-request/v1", rows.to_bytes(4, "big"), data, b"")
    plaintext = pack("cloister/scoring-request/v1", rows.to_bytes(4, "big"), data, bytes(BUCKETS[0] - len(bare)))
    reason = refusal_of(Request.decode, plaintext, Declaration(("x",), ("a",), None), LIMITS)
    assert reason in {Reason.SCORING_ROWS, Reason.SCORING_REQUEST}


def test_padding_is_zeros_up_to_a_size_and_nothing_else():
    plaintext = Request(ROWS).encode()
    decode = (Request.decode, plaintext[:-1] + b"\1", DECLARATION, LIMITS)
    assert refusal_of(*decode) is Reason.NOT_CANONICAL
    bare = pack("cloister/scoring-request/v1", (1).to_bytes(4, "big"), bytes(8), bytes(10))
    assert refusal_of(Request.decode, bare, DECLARATION, LIMITS) is Reason.NOT_CANONICAL


@pytest.mark.parametrize("scores", [np.ones((5, 2)), np.ones((6, 1)), np.full((6, 2), np.nan)])
def test_an_answer_of_another_shape_or_not_finite_is_refused(scores):
    plaintext = Request(ROWS).encode()
    answer = encode_scores(plaintext, scores)
    assert refusal_of(decode_answer, answer, plaintext, DECLARATION, 6) is Reason.SCORING_ANSWER


@pytest.mark.parametrize("number", [999, 65535])
def test_a_reason_that_nobody_knows_is_a_refusal_all_the_same(number):
    plaintext = Request(ROWS).encode()

    class Unknown(int):
        pass

    assert refusal_of(decode_answer, encode_refusal(plaintext, Unknown(number)), plaintext, DECLARATION, 6)


def test_a_statement_is_read_as_it_was_written_and_only_so(world):
    said = Statement(bytes(32), bytes(32), bytes(32), Declaration(("x",), ("a",), 4), LIMITS)
    assert Statement.decode(said.encode()) == said
    for wrong in (b"{}", said.encode()[:-1], said.encode().replace(b'"a"', b'"A"')):
        with pytest.raises(ProtocolError):
            Statement.decode(wrong)


def test_the_stricter_of_two_limits_holds_in_each():
    assert ScoringLimits(10, 200, 30).stricter(ScoringLimits(100, 20, 300)) == ScoringLimits(10, 20, 30)


@pytest.mark.parametrize("wrong", [{"rows_per_request": 0}, {"requests_per_minute": 100_001}, {"requests_total": -1}])
def test_limits_out_of_bounds_are_refused(wrong):
    assert refusal_of(lambda: ScoringLimits(**wrong)) is Reason.DOCUMENT_RULE


@pytest.mark.parametrize(
    "value",
    [
        {"inputs": [], "outputs": ["a"]},
        {"inputs": ["x"], "outputs": []},
        {"inputs": ["x", "x"], "outputs": ["a"]},
        {"inputs": ["x"], "outputs": ["a b"]},
        {"inputs": ["x"], "outputs": [f"o{n}" for n in range(17)]},
        {"inputs": ["x"], "outputs": ["a"], "digits": 16},
        {"inputs": ["x"], "outputs": ["a"], "more": 1},
        {"inputs": "x", "outputs": ["a"]},
    ],
)
def test_a_declaration_out_of_bounds_is_refused(value):
    with pytest.raises(ProtocolError):
        Declaration.read(value)
