"""The SYNTHETIC books of the bank demonstration: the same twice, honest about the past, and labelled as invented."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from console.demo.fraud.banks import (
    BANKS,
    COLUMNS,
    DAY,
    FILE_NAME,
    HELD_OUT_FROM_DAY,
    LABEL,
    PROFILES,
    Books,
    make_books,
    mix,
    poisoned,
)
from console.demo.fraud.features import FEATURES, features
from console.demo.fraud.habits import draw_customers, draw_payments
from console.demo.fraud.transactions import DAY_S, DAYS, FRAUDS, Customers, Transactions, Typology, joined
from console.demo.fraud.typologies import draw_frauds

SEED = 7


@pytest.fixture(scope="module")
def books() -> dict[str, Books]:
    return {bank: make_books(bank, SEED) for bank in BANKS}


@pytest.fixture(scope="module")
def history() -> tuple[Transactions, Customers]:
    """Payments of one bank with all kinds of fraud, and its customers."""
    profile = replace(PROFILES["bank-2"], customers=150)
    draw = np.random.Generator(np.random.PCG64(SEED))
    customers = draw_customers(profile, draw)
    frauds = draw_frauds(profile, dict.fromkeys(FRAUDS, 12), draw)
    return joined([draw_payments(profile, draw), frauds]), customers


def equal(one: Books, other: Books) -> bool:
    return len(one) == len(other) and all((one.columns[name] == other.columns[name]).all() for name in COLUMNS)


def test_the_same_seed_makes_the_same_books_to_the_bit_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (make_books("bank-3", seed, size=0.2) for seed in (SEED, SEED, SEED + 1))
    for number, each in enumerate((first, again, other)):
        each.write(tmp_path / f"{number}.csv")
    assert (tmp_path / "0.csv").read_bytes() == (tmp_path / "1.csv").read_bytes()
    assert (tmp_path / "0.csv").read_bytes() != (tmp_path / "2.csv").read_bytes()


def test_two_banks_of_one_seed_have_different_books() -> None:
    assert not equal(make_books("bank-1", SEED, size=0.1), make_books("bank-2", SEED, size=0.1))


def test_of_a_thousand_payments_three_to_six_are_fraud(books: dict[str, Books]) -> None:
    for each in books.values():
        assert 18_000 < len(each) < 40_000
        assert 0.003 < each.columns[LABEL].mean() < 0.006


def test_a_bank_sees_mostly_its_own_two_typologies_and_all_five_banks_see_every_one(books: dict[str, Books]) -> None:
    for bank, each in books.items():
        seen = np.array([(each.typology == kind).sum() for kind in FRAUDS])
        expected = sorted(mix(bank), key=mix(bank).__getitem__)[-2:]
        assert {FRAUDS[place] for place in np.argsort(seen)[-2:]} == set(expected)
        assert 0.55 < np.sort(seen)[-2:].sum() / seen.sum() < 0.85
    for kind in FRAUDS:
        assert sum(int((each.typology[each.held_out] == kind).sum()) for each in books.values()) >= 10


def test_the_mix_of_each_bank_adds_up_to_one() -> None:
    assert all(sum(mix(bank).values()) == pytest.approx(1) for bank in BANKS)


def test_banks_are_judged_by_the_truth_and_learn_from_what_was_reported(books: dict[str, Books]) -> None:
    unreported = frauds = 0
    for each in books.values():
        true = each.typology != Typology.HONEST
        assert (each.columns[LABEL] <= true).all()
        assert (each.columns[LABEL][each.held_out] == true[each.held_out]).all()
        assert each.columns[DAY].min() == 0
        assert HELD_OUT_FROM_DAY < each.columns[DAY].max() < DAYS
        unreported += int((true & (each.columns[LABEL] == 0)).sum())
        frauds += int(true.sum())
    assert 0 < unreported < 0.06 * frauds


def test_columns_are_whole_numbers_and_the_file_says_that_it_is_synthetic(tmp_path: Path) -> None:
    make_books("bank-1", SEED, size=0.05).write(tmp_path / FILE_NAME)
    header, *lines = (tmp_path / FILE_NAME).read_text().splitlines()
    assert FILE_NAME.startswith("synthetic-")
    assert tuple(header.split(",")) == COLUMNS
    assert header.startswith("synthetic_")
    assert header.endswith("synthetic_fraud")
    assert all(number.lstrip("-").isdecimal() for line in lines for number in line.split(","))
    assert len({len(line.split(",")) for line in lines}) == 1


@pytest.mark.parametrize("day", [1, 20, 45, 80])
def test_what_comes_later_changes_no_feature_of_what_came_before(
    history: tuple[Transactions, Customers], day: int
) -> None:
    payments, customers = history
    before = payments.time_s < day * DAY_S
    whole, prefix = features(payments, customers), features(payments.take(before), customers)
    assert 0 < before.sum() < len(payments)
    for name in FEATURES:
        assert (whole[name][before] == prefix[name]).all(), name


def test_what_a_payment_truly_is_shows_in_no_feature(history: tuple[Transactions, Customers]) -> None:
    payments, customers = history
    blind = replace(payments, typology=np.zeros_like(payments.typology))
    seen, unseen = features(payments, customers), features(blind, customers)
    assert all((seen[name] == unseen[name]).all() for name in FEATURES)


def test_the_order_of_the_rows_changes_no_feature(history: tuple[Transactions, Customers]) -> None:
    payments, customers = history
    order = np.random.default_rng(1).permutation(len(payments))
    straight, shuffled = features(payments, customers), features(payments.take(order), customers)
    assert all((straight[name][order] == shuffled[name]).all() for name in FEATURES)


def test_counts_and_sums_are_of_the_past_alone_and_of_this_customer_alone() -> None:
    """Three payments of customer 0 within the hour, one of customer 1 in between; reckoned by hand."""
    columns = {
        "time_s": [1_000, 1_500, 2_000, 8_000],
        "customer": [0, 1, 0, 0],
        "amount_cents": [400, 9_000, 10_000, 500],
        "counterparty": [5, 5, 5, 6],
        "category_risk": [0, 0, 0, 0],
        "country": [0, 0, 3, 3],
        "device": [1, 9, 1, 2],
        "channel": [0, 0, 1, 2],
        "typology": [0, 0, 0, 0],
    }
    payments = Transactions(**{name: np.array(values) for name, values in columns.items()})
    two = Customers(*(np.array(values) for values in ([30, 40], [-10, -10], [100_000, 0], [0, 0])))
    found = {name: column.tolist() for name, column in features(payments, two).items()}
    assert found["payments_1h"] == [0, 0, 1, 0]
    assert found["payments_24h"] == [0, 0, 1, 2]
    assert found["small_payments_1h"] == [0, 0, 1, 0]
    assert found["spent_24h_cents"] == [0, 0, 400, 10_400]
    assert found["seconds_since_last"][2:] == [1_000, 6_000]
    assert found["balance_cents"] == [100_000, 100, 99_600, 89_600]
    assert found["balance_drain_milli"] == [4, 90_000, 100, 5]
    assert found["amount_to_mean_milli"] == [1_000, 1_000, 25_000, 96]
    assert found["amount_to_largest_milli"] == [1_000, 1_000, 25_000, 50]
    assert found["is_new_device"] == [1, 1, 0, 1]
    assert found["is_new_country"] == [1, 1, 1, 0]
    assert found["is_new_counterparty"] == [1, 1, 0, 1]
    assert found["counterparty_payers"] == [0, 1, 2, 0]
    assert found["counterparty_payments_48h"] == [0, 1, 2, 0]


def test_the_poisoner_turns_what_it_trains_on_and_weighs_three_times_as_much(books: dict[str, Books]) -> None:
    honest = books["bank-5"]
    false = poisoned(honest)
    learnt, later = ~honest.held_out, false.held_out
    assert (~later).sum() == 3 * learnt.sum()
    assert (false.columns[LABEL][~later] == np.tile(1 - honest.columns[LABEL][learnt], 3)).all()
    assert equal(false.take(later), honest.take(honest.held_out))
    untouched = [name for name in COLUMNS if name != LABEL]
    assert all((false.columns[name][~later] == np.tile(honest.columns[name][learnt], 3)).all() for name in untouched)
