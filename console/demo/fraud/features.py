"""What a bank can know of a payment when it is made: from the past alone, in whole numbers. Trust zone: public.

Rules: 1. No feature of a payment depends on a later one, nor on its label. 2. Sums are of integers, so that what comes
later, anywhere in the table, moves no earlier row by a bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from console.demo.fraud.transactions import DAY_S, HOUR_S, Channel, Column, Customers, Transactions

_SPAN_S = 1_000 * DAY_S  # longer than any history: two customers' keys never meet
_SMALL_CENTS = 5_00
_ROUND_CENTS = 50_00
_NEVER_S = 365 * DAY_S
_FAR_MILLI = 1_000_000

FEATURES = (
    *("amount_cents", "minute_of_day", "is_online", "is_transfer", "category_risk", "is_abroad", "is_round"),
    *("customer_age_years", "account_age_days", "balance_cents", "balance_drain_milli"),
    *("seconds_since_last", "payments_1h", "payments_24h", "payments_7d", "small_payments_1h", "spent_24h_cents"),
    *("amount_to_mean_milli", "amount_to_largest_milli", "amount_z_milli", "night_share_milli"),
    *("is_new_device", "device_age_hours", "is_new_country", "is_new_counterparty", "devices_before"),
    *("counterparty_age_hours", "counterparty_payers", "counterparty_payments_48h"),
)


def features(transactions: Transactions, customers: Customers) -> dict[str, Column]:
    """``FEATURES`` by name, int64[n] each, in the order of ``transactions``."""
    order = _by(transactions.customer, transactions, transactions.counterparty)
    ordered = transactions.take(order)
    columns = {
        **_of_itself(ordered, customers),
        **_of_the_account(ordered, customers),
        **_of_the_last_days(ordered),
        **_of_the_amount(ordered),
        **_of_what_is_new(ordered),
        **_of_the_counterparty(ordered),
    }
    back = np.argsort(order, kind="stable")
    return {name: columns[name].astype(np.int64)[back] for name in FEATURES}


def _of_itself(rows: Transactions, customers: Customers) -> dict[str, Column]:
    return {
        "amount_cents": rows.amount_cents,
        "minute_of_day": rows.time_s % DAY_S // 60,
        "is_online": rows.channel == Channel.ONLINE,
        "is_transfer": rows.channel == Channel.TRANSFER,
        "category_risk": rows.category_risk,
        "is_abroad": rows.country != 0,
        "is_round": rows.amount_cents % _ROUND_CENTS == 0,
        "customer_age_years": customers.age_years[rows.customer],
        "account_age_days": rows.time_s // DAY_S - customers.opened_day[rows.customer],
    }


def _of_the_account(rows: Transactions, customers: Customers) -> dict[str, Column]:
    earned = customers.opening_cents[rows.customer] + customers.daily_income_cents[rows.customer] * rows.time_s // DAY_S
    balance = np.maximum(earned - _before(rows.amount_cents, _starts(rows.customer)), 1_00)
    return {"balance_cents": balance, "balance_drain_milli": _ratio_milli(rows.amount_cents, balance)}


def _of_the_last_days(rows: Transactions) -> dict[str, Column]:
    starts = _starts(rows.customer)
    since = rows.time_s - np.concatenate([[0], rows.time_s[:-1]])
    small = (rows.amount_cents < _SMALL_CENTS).astype(np.int64)
    ones = np.ones(len(rows), np.int64)
    return {
        "seconds_since_last": np.where(starts == np.arange(len(rows)), _NEVER_S, since),
        "payments_1h": _within(ones, rows.customer, rows.time_s, HOUR_S),
        "payments_24h": _within(ones, rows.customer, rows.time_s, DAY_S),
        "payments_7d": _within(ones, rows.customer, rows.time_s, 7 * DAY_S),
        "small_payments_1h": _within(small, rows.customer, rows.time_s, HOUR_S),
        "spent_24h_cents": _within(rows.amount_cents, rows.customer, rows.time_s, DAY_S),
    }


def _of_the_amount(rows: Transactions) -> dict[str, Column]:
    """Against the customer's own past; of a first payment nothing is known, and it counts as usual."""
    starts = _starts(rows.customer)
    count = np.arange(len(rows)) - starts
    log_milli = np.rint(np.log(rows.amount_cents) * 1_000).astype(np.int64)
    night = (rows.time_s % DAY_S < 6 * HOUR_S).astype(np.int64)
    seen = np.maximum(count, 1)
    mean = _before(log_milli, starts) / seen
    spread = np.sqrt(np.maximum(_before(log_milli * log_milli, starts) / seen - mean * mean, 0.0))
    z = np.where(count >= 3, (log_milli - mean) / np.maximum(spread, 300.0) * 1_000, 0.0)
    average = np.where(count > 0, _before(rows.amount_cents, starts) // seen, rows.amount_cents)
    largest = np.where(count > 0, _largest_before(rows.amount_cents, rows.customer), rows.amount_cents)
    return {
        "amount_to_mean_milli": _ratio_milli(rows.amount_cents, average),
        "amount_to_largest_milli": _ratio_milli(rows.amount_cents, largest),
        "amount_z_milli": np.rint(z).astype(np.int64),
        "night_share_milli": _before(night, starts) * 1_000 // seen,
    }


def _of_what_is_new(rows: Transactions) -> dict[str, Column]:
    place = np.arange(len(rows))
    first_device = _first_place(rows.customer, rows.device)
    is_new_device = first_device == place
    return {
        "is_new_device": is_new_device,
        "device_age_hours": (rows.time_s - rows.time_s[first_device]) // HOUR_S,
        "is_new_country": _first_place(rows.customer, rows.country) == place,
        "is_new_counterparty": _first_place(rows.customer, rows.counterparty) == place,
        "devices_before": _before(is_new_device.astype(np.int64), _starts(rows.customer)),
    }


def _of_the_counterparty(rows: Transactions) -> dict[str, Column]:
    """What this bank has seen of the other side: for how long, from how many customers, how often just now."""
    order = _by(rows.counterparty, rows, rows.customer)
    counterparty, time_s, customer = rows.counterparty[order], rows.time_s[order], rows.customer[order]
    starts = _starts(counterparty)
    first_from = (_first_place(counterparty, customer) == np.arange(len(rows))).astype(np.int64)
    ones = np.ones(len(rows), np.int64)
    columns = {
        "counterparty_age_hours": (time_s - time_s[starts]) // HOUR_S,
        "counterparty_payers": _before(first_from, starts),
        "counterparty_payments_48h": _within(ones, counterparty, time_s, 2 * DAY_S),
    }
    back = np.argsort(order, kind="stable")
    return {name: column[back] for name, column in columns.items()}


def _by(group: Column, rows: Transactions, other: Column) -> NDArray[np.intp]:
    """The order by ``group``, within it by time, and at the same second by what else tells two payments apart."""
    return np.lexsort((rows.amount_cents, other, rows.time_s, group))


def _starts(group: Column) -> Column:
    """For each row of a table sorted by ``group``, the place where its group begins."""
    return np.searchsorted(group, group, side="left").astype(np.int64)


def _before(values: Column, starts: Column) -> Column:
    """For each row, the sum of ``values`` over the rows of its group before it."""
    total = np.concatenate([[0], np.cumsum(values)])
    past: Column = total[:-1] - total[starts]
    return past


def _within(values: Column, group: Column, time_s: Column, window_s: int) -> Column:
    """For each row, the sum of ``values`` over the rows of its group before it, in the last ``window_s`` seconds."""
    key = group * _SPAN_S + time_s
    total = np.concatenate([[0], np.cumsum(values)])
    past: Column = total[:-1] - total[np.searchsorted(key, key - window_s, side="left")]
    return past


def _first_place(group: Column, value: Column) -> NDArray[np.intp]:
    """For each row, the place of the first row with the same ``group`` and ``value``."""
    order = np.lexsort((value, group))  # stable: among equals the earlier place stands first
    ours, theirs = group[order], value[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (ours[1:] != ours[:-1]) | (theirs[1:] != theirs[:-1])
    first = np.empty_like(order)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first


def _largest_before(values: Column, group: Column) -> Column:
    """For each row sorted by ``group``, the largest of ``values`` before it in its group; wrong for a first."""
    lifted = group * (1 << 40) + values  # a running maximum that no earlier group reaches into
    running = np.maximum.accumulate(lifted)
    return np.concatenate([[0], running[:-1]]) - group * (1 << 40)


def _ratio_milli(part: Column, whole: Column) -> Column:
    return np.minimum(part * 1_000 // np.maximum(whole, 1), _FAR_MILLI)
