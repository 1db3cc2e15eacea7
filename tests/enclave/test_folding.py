"""Rules and server optimisers: the same as Flower's, whatever the order and the lanes, and blind to values."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from flwr.serverapp import strategy

from coordinator.enclave.fold import ContributionLost, passes
from coordinator.enclave.fold.sorting import network, sort_rows
from coordinator.enclave.model import GlobalModel
from tests.enclave.folds import ADAM, RULES, Flower, Sealed, step_of, terms
from tests.enclave.test_jobs import Lanes
from tests.world import MemoryStore
from trusted.documents.terms import Aggregation
from trusted.encoding import Encoding
from trusted.errors import BlobError, Reason

PIECE = Encoding.FLOAT32.piece_elements
WEIGHTS = (10, 40, 20, 5, 90, 30, 60, 10, 70, 25)


def updates_of(count: int, elements: int, seed: int = 0) -> list[np.ndarray]:
    """Updates that point roughly one way, with one in three far away."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(elements)
    far = [1.0 + 3.0 * (place % 3 == 2) for place in range(count)]
    return [(common * scale + rng.standard_normal(elements) * 0.5 * scale).astype("f4") for scale in far]


# --- against Flower -------------------------------------------------------------------------------------------------

ADAGRAD = {"optimizer": "adagrad", "learning_rate": 0.1, "tau": 1e-3}
MOMENTUM = {"optimizer": "momentum", "learning_rate": 0.5, "beta_1": 0.9}
SAME: list[tuple[Aggregation, Callable[[], strategy.FedAvg]]] = [
    (terms("weighted-mean"), strategy.FedAvg),
    (terms("median"), strategy.FedMedian),
    (terms("trimmed-mean"), lambda: strategy.FedTrimmedAvg(beta=0.2)),
    (terms("krum"), lambda: strategy.Krum(num_malicious_nodes=2)),
    (terms("multi-krum"), lambda: strategy.MultiKrum(num_malicious_nodes=2, num_nodes_to_select=3)),
    (
        terms("weighted-mean", server=MOMENTUM),
        lambda: strategy.FedAvgM(server_learning_rate=0.5, server_momentum=0.9),
    ),
    (terms("weighted-mean", server=ADAM), strategy.FedAdam),
    (terms("weighted-mean", server=ADAM | {"optimizer": "yogi", "learning_rate": 0.01}), strategy.FedYogi),
    (terms("weighted-mean", server=ADAGRAD), strategy.FedAdagrad),
]


@pytest.mark.parametrize("count", [9, 10])
@pytest.mark.parametrize(("rule", "theirs"), SAME, ids=lambda value: getattr(value, "__name__", ""))
def test_every_rule_and_optimizer_makes_the_models_of_flowers_own_strategy(rule, theirs, count):
    if rule.trim:  # Flower leaves out a fraction, rounded down
        count = 10
    weights, start = WEIGHTS[:count], np.linspace(-1, 1, 500, dtype="f4")
    flower, model = Flower(theirs(), start), GlobalModel.first(start.copy(), rule.moments)
    for number in (1, 2, 3):
        updates = updates_of(count, len(start), seed=number)
        model = Sealed(updates, weights).fold_into(model, rule, number)
        np.testing.assert_allclose(model.vector, flower.fold(updates, weights, number), rtol=2e-4, atol=2e-6)


def test_a_weighted_mean_is_a_sum_of_exact_products_in_the_order_of_member_ids_divided_last():
    updates = updates_of(10, 3 * PIECE + 17)
    total = np.zeros(len(updates[0]))
    for update, weight in zip(updates, WEIGHTS, strict=True):
        total += weight * update.astype(np.float64)
    expected = (total / sum(WEIGHTS)).astype("f4")
    assert step_of(updates, terms("weighted-mean"), WEIGHTS).tobytes() == expected.tobytes()


def test_adam_counts_the_rounds_that_were_committed_and_starts_without_moments():
    """A step at the wrong place in the sequence is another step: Flower's correction of the bias depends on it."""
    updates, start = updates_of(5, 100), np.zeros(100, "f4")
    rule = terms("weighted-mean", server=ADAM)
    first, third = (
        Sealed(updates).fold_into(GlobalModel.first(start, rule.moments), rule, number) for number in (1, 3)
    )
    assert not np.allclose(first.vector, third.vector)


# --- what each rule says --------------------------------------------------------------------------------------------


def weiszfeld(updates: Sequence[np.ndarray]) -> np.ndarray:
    """The geometric median in float64, from the vectors themselves, until it stands."""
    points = np.array(updates, dtype=np.float64)
    here = points.mean(axis=0)
    for _ in range(10_000):
        inverse = 1 / np.maximum(np.linalg.norm(points - here, axis=1), 1e-12)
        here, before = inverse @ points / inverse.sum(), here
        if np.linalg.norm(here - before) < 1e-13:
            break
    return here


def test_the_geometric_median_is_that_of_a_reference_in_float64_whatever_the_weights():
    updates = updates_of(10, 300)
    expected = weiszfeld(updates)
    for weights in (None, WEIGHTS):
        np.testing.assert_allclose(step_of(updates, terms("geometric-median"), weights), expected, rtol=1e-4, atol=1e-6)
    few = step_of(updates, terms("geometric-median", iterations=1))
    assert not np.allclose(few, expected, rtol=1e-3)


@pytest.mark.parametrize("rule", ["median", "geometric-median"])
@pytest.mark.parametrize("alike", [True, False])
def test_the_most_that_are_less_than_half_and_as_large_as_can_be_move_no_median_far(rule, alike):
    honest = [update for update in updates_of(15, 200) if np.linalg.norm(update) < 30][:5]
    center, spread = np.mean(honest, axis=0), np.max(np.linalg.norm(honest - np.mean(honest, axis=0), axis=1))
    huge = [np.full(200, 1e37 / (1 if alike else 10.0**place), "f4") for place in range(4)]
    for attacked in ([*honest, *huge], [*huge, *honest]):
        assert np.linalg.norm(step_of(attacked, terms(rule)) - center) <= 3 * spread
    assert np.linalg.norm(step_of([*honest[:4], *huge, huge[0]], terms(rule)) - center) > 1e30  # more than half win


def test_the_geometric_median_of_updates_that_are_all_the_same_is_that_update():
    same = [np.linspace(-1, 1, 50, dtype="f4")] * 5
    np.testing.assert_allclose(step_of(same, terms("geometric-median")), same[0], rtol=1e-6)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum", "geometric-median"])
def test_a_rule_that_ignores_weights_gives_the_same_bits_for_all_of_them(rule):
    updates = updates_of(10, 200)
    assert step_of(updates, terms(rule)).tobytes() == step_of(updates, terms(rule), WEIGHTS).tobytes()


@pytest.mark.parametrize("rule", ["weighted-mean", "multi-krum"])
def test_weights_count_where_the_rule_says_so(rule):
    updates = updates_of(10, 200)
    assert not np.allclose(step_of(updates, terms(rule)), step_of(updates, terms(rule), WEIGHTS))


def test_krum_takes_one_update_as_it_is_and_the_first_among_equals():
    updates = [np.full(30, value, "f4") for value in (9, 1, 1, 1, 1, 1, -9)]
    assert (step_of(updates, terms("krum")) == 1).all()
    two = [np.full(30, value, "f4") for value in (4, 4, 4, 5, 5, 5, 90)]  # the scores of 4 and 5 are the same
    assert (step_of(two, terms("krum", byzantine=2)) == 4).all()


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "weighted-mean"])
def test_two_of_ten_that_send_enormous_numbers_move_no_robust_rule_far(rule):
    honest = updates_of(10, 200)[:8]
    center, spread = np.mean(honest, axis=0), np.max(np.linalg.norm(honest - np.mean(honest, axis=0), axis=1))
    attacked = [*honest, *[np.full(200, 3e38, "f4")] * 2]
    assert np.linalg.norm(step_of(attacked, terms(rule)) - center) <= spread
    with pytest.raises(BlobError) as caught:
        step_of([np.full(200, 3e38, "f4")] * 10, terms(rule, server=MOMENTUM | {"learning_rate": 5}))
    assert caught.value.reason is Reason.NON_FINITE


@pytest.mark.parametrize("count", range(1, 34))
def test_the_network_sorts_whatever_the_number_of_rows(count):
    """By the 0-1 principle a network that sorts every row of zeros and ones sorts all; beyond ten rows, samples."""
    if count <= 10:
        rows = np.array(list(itertools.product((0.0, 1.0), repeat=count))).T.copy()
    else:
        rows = np.random.default_rng(count).standard_normal((count, 2000))
    expected = np.sort(rows, axis=0)
    np.testing.assert_array_equal(np.array(sort_rows(list(rows))), expected)
    assert all(low < high for low, high in network(count))


# --- order and lanes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_neither_lanes_nor_the_order_of_arrival_change_a_bit(rule, monkeypatch):
    """Five pieces, in three groups for the inner products; four encodings of memory, of which one lets one lane in."""
    monkeypatch.setattr(passes, "_GROUPS", 3)
    rule_terms, elements = terms(rule, server=ADAM), 4 * PIECE + 1001
    sealed = Sealed([update * 1000**place for place, update in enumerate(updates_of(7, elements))], WEIGHTS[:7])
    start = GlobalModel.first(np.full(elements, 0.1, "f4"), rule_terms.moments)
    one = sealed.fold_into(start, rule_terms, jobs=Lanes(1)).state
    sealed.contributions.reverse()
    for lanes, window in ((2, 1 << 30), (3, 1), (7, 1 << 30)):
        monkeypatch.setattr(passes, "_WINDOW_BYTES", window)
        other = sealed.fold_into(start, rule_terms, jobs=Lanes(lanes)).state
        assert all(a.tobytes() == b.tobytes() for a, b in zip(states(one), states(other), strict=True))
    assert (start.vector == np.float32(0.1)).all()


def states(state: Any) -> tuple[np.ndarray, ...]:
    return (state.model, *state.moments)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("encoding", [Encoding.BFLOAT16, Encoding.INT8])
def test_every_rule_folds_every_encoding(rule, encoding):
    updates = updates_of(7, 3000)
    exact = Sealed(updates).fold_into(GlobalModel.first(np.zeros(3000, "f4"), 0), terms(rule)).vector
    start = GlobalModel.first(np.zeros(3000, "f4"), 0)
    rounded = Sealed(updates, encoding=encoding).fold_into(start, terms(rule)).vector
    assert 0 < np.linalg.norm(rounded - exact) < 0.02 * np.linalg.norm(exact)


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_costs_its_own_contribution_only(rule, odd):
    updates = updates_of(8, PIECE + 10)
    updates[4][-1] = odd
    rule_terms = terms(rule, server=ADAM)
    start = GlobalModel.first(np.zeros(PIECE + 10, "f4"), rule_terms.moments)
    sealed = Sealed(updates, WEIGHTS[:8])
    with pytest.raises(ContributionLost) as caught:
        sealed.fold_into(start, rule_terms)
    assert (caught.value.member, caught.value.error.reason) == ("m04", Reason.NON_FINITE)
    del sealed.contributions[4], updates[4]
    again = sealed.fold_into(start, rule_terms)
    fresh = GlobalModel.first(np.zeros(PIECE + 10, "f4"), rule_terms.moments)
    weights = [weight for place, weight in enumerate(WEIGHTS[:8]) if place != 4]
    expected = Sealed(updates, weights).fold_into(fresh, rule_terms)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(states(again.state), states(expected.state), strict=True))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("lanes", [1, 3])
def test_a_flipped_bit_names_its_member_under_every_rule(rule, lanes):
    sealed = Sealed(updates_of(7, 2 * PIECE))
    blob = sealed.contributions[2].blob
    data = bytearray(sealed.store.blobs[blob])
    data[-40] ^= 1
    sealed.store.blobs[blob] = bytes(data)
    with pytest.raises(ContributionLost) as caught:
        sealed.fold_into(GlobalModel.first(np.zeros(2 * PIECE, "f4"), 0), terms(rule), jobs=Lanes(lanes))
    assert caught.value.member == "m02"


def test_a_second_moment_beyond_float32_is_nobodys_fault():
    huge = [np.full(10, 1e30, "f4")] * 3  # its square is not a float32
    with pytest.raises(BlobError) as caught:
        step_of(huge, terms("weighted-mean", server=ADAGRAD))
    assert caught.value.reason is Reason.NON_FINITE
    assert np.isfinite(step_of(huge, terms("weighted-mean", server=MOMENTUM))).all()


# --- blindness ------------------------------------------------------------------------------------------------------

TRACED = tuple(str(Path(passes.__file__).parents[3] / room) for room in ("coordinator", "trusted"))


class ReadStore(MemoryStore):
    """Remembers every read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[bytes, int, int]] = []

    def read(self, blob: bytes, offset: int, size_bytes: int) -> bytes:
        self.reads.append((blob, offset, size_bytes))
        return super().read(blob, offset, size_bytes)


@contextmanager
def traced() -> Iterator[list[tuple[str, int]]]:
    """Every line of the aggregator's own code that runs meanwhile."""
    lines: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(TRACED):
            return None
        if event == "line":
            lines.append((name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


def different_values(count: int, elements: int) -> list[list[np.ndarray]]:
    """What a curious host would like to tell apart: honest, all alike, zero, sorted, turned, one of them enormous."""
    honest = updates_of(count, elements)
    return [
        honest,
        honest[::-1],
        [honest[0]] * count,
        [np.zeros(elements, "f4")] * count,
        [np.sort(update) for update in honest],
        [*honest[:-1], np.full(elements, -3e38, "f4")],
    ]


YOGI = ADAM | {"optimizer": "yogi"}


@pytest.mark.parametrize(
    ("rule", "server"),
    [*((rule, None) for rule in RULES), *(("weighted-mean", each) for each in (ADAM, YOGI, ADAGRAD))],
)
def test_lines_and_reads_do_not_depend_on_values(rule, server):
    rule_terms, elements = terms(rule, **({"server": server} if server else {})), PIECE + 77
    traces = []
    for updates in different_values(7, elements):
        if server:
            updates = [np.clip(update, -1e3, 1e3) for update in updates]  # or the second moment overflows
        sealed = Sealed(updates, store=ReadStore())
        model = GlobalModel.first(np.zeros(elements, "f4"), rule_terms.moments)
        sealed.fold_into(model, rule_terms)  # networks and headers are made once for each size
        sealed.store.reads.clear()
        with traced() as lines:
            sealed.fold_into(model, rule_terms)
        traces.append((lines, sealed.store.reads))
    assert len(traces[0][0]) > 100
    assert len(traces[0][1]) >= 7
    assert all(trace == traces[0] for trace in traces)


def test_the_trace_would_show_a_branch_on_values():
    def branching(values: np.ndarray) -> int:
        if values[0] > 0:
            return 1
        return 2

    global TRACED
    before, TRACED = TRACED, (__file__,)
    try:
        seen = []
        for value in (1.0, -1.0):
            with traced() as lines:
                branching(np.array([value]))
            seen.append(lines)
    finally:
        TRACED = before
    assert seen[0] != seen[1]
