"""Honest customers and what they pay for, SYNTHETIC: each has habits, and now and then leaves them. Trust zone: public.

What looks like fraud and is none is here too: new telephones, journeys, deposits on a flat, a morning of bus tickets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from console.demo.fraud.transactions import DAY_S, DAYS, HOUR_S, Channel, Column, Customers, Transactions, joined

MERCHANTS = 600
COUNTRIES = 12
DEVICES_EACH = 8  # numbers 0 to 7 below a customer's own block; the first two are in daily use
FIRST_PAYEE = 1_000_000  # above every merchant
_POPULAR_PAYEES = 40  # landlords, clubs, charities: honest accounts that many pay
_OWN_PAYEES = 5


@dataclass(frozen=True, slots=True)
class Profile:
    """What makes one bank's customers differ from another's."""

    customers: int
    payments_each: float  # in all days
    amount_scale: float
    transfer_share: float
    travellers: float  # share of the customers


def draw_customers(profile: Profile, draw: np.random.Generator) -> Customers:
    """As many customers as the profile says."""
    n = profile.customers
    income = draw.lognormal(np.log(90_00 * profile.amount_scale), 0.45, n)
    return Customers(
        age_years=np.clip(draw.normal(46, 17, n), 18, 95).astype(np.int64),
        opened_day=-draw.integers(30, 7_000, n),
        opening_cents=(income * draw.lognormal(np.log(30), 0.9, n)).astype(np.int64),
        daily_income_cents=income.astype(np.int64),
    )


def draw_payments(profile: Profile, draw: np.random.Generator) -> Transactions:
    """Everything that honest customers pay in all days."""
    return joined([_everyday(profile, draw), _bursts(profile, draw), _large_transfers(profile, draw)])


def draw_times(customer: Column, draw: np.random.Generator, *, usual_hour: NDArray[np.float64]) -> Column:
    """A time for each payment, mostly near the customer's usual hour."""
    hour = np.where(draw.random(len(customer)) < 0.85, draw.normal(usual_hour[customer], 3.0), draw.uniform(7, 24))
    return draw.integers(0, DAYS, len(customer)) * DAY_S + (np.mod(hour, 24) * HOUR_S).astype(np.int64)


def _everyday(profile: Profile, draw: np.random.Generator) -> Transactions:
    n = profile.customers
    customer = np.repeat(np.arange(n), draw.poisson(profile.payments_each * draw.gamma(4, 0.25, n)))
    size = len(customer)
    time_s = draw_times(customer, draw, usual_hour=draw.normal(14, 3.0, n))
    online_share = draw.beta(2, 4, n)[customer]
    channel = np.where(draw.random(size) < online_share, Channel.ONLINE, Channel.CARD)
    channel = np.where(draw.random(size) < profile.transfer_share, Channel.TRANSFER, channel).astype(np.int64)
    transfer = channel == Channel.TRANSFER
    merchant = _favourites(customer, n, draw)
    category = _category_risk(merchant)
    level = (
        draw.normal(np.log(24_00 * profile.amount_scale), 0.45, n)[customer] + 0.35 * (category - 1) + 1.3 * transfer
    )
    amount = np.exp(draw.normal(level, draw.uniform(0.5, 0.9, n)[customer]))
    amount = np.where(transfer & (draw.random(size) < 0.4), np.ceil(amount / 10_00) * 10_00, amount)
    return Transactions(
        time_s=time_s,
        customer=customer,
        amount_cents=np.maximum(amount, 50).astype(np.int64),
        counterparty=np.where(transfer, _payee(customer, draw), merchant),
        category_risk=np.where(transfer, 0, category),
        country=_country(customer, time_s, profile, draw),
        device=_device(customer, time_s, draw),
        channel=channel,
        typology=np.zeros(size, np.int64),
    )


def _bursts(profile: Profile, draw: np.random.Generator) -> Transactions:
    """Bus tickets and downloads: several tiny payments within an hour, by the customer's own device."""
    each = draw.integers(3, 8, max(1, profile.customers // 6))
    customer = np.repeat(draw.integers(0, profile.customers, len(each)), each)
    morning = draw.integers(0, DAYS, len(each)) * DAY_S + draw.integers(7 * HOUR_S, 22 * HOUR_S, len(each))
    start = np.repeat(morning, each)
    size = len(customer)
    merchant = np.repeat(draw.integers(0, MERCHANTS, len(each)), each)
    return Transactions(
        time_s=start + draw.integers(0, HOUR_S, size),
        customer=customer,
        amount_cents=draw.integers(80, 600, size),
        counterparty=merchant,
        category_risk=_category_risk(merchant),
        country=np.zeros(size, np.int64),
        device=customer * DEVICES_EACH + draw.integers(0, 2, size),
        channel=np.full(size, Channel.ONLINE, np.int64),
        typology=np.zeros(size, np.int64),
    )


def _large_transfers(profile: Profile, draw: np.random.Generator) -> Transactions:
    """Deposits, cars, help for a daughter: honest, to somebody new, and a good part of what is there."""
    size = max(1, profile.customers // 3)
    customer = draw.integers(0, profile.customers, size)
    amount = draw.lognormal(np.log(900_00 * profile.amount_scale), 0.8, size)
    return Transactions(
        time_s=draw.integers(0, DAYS, size) * DAY_S + draw.integers(8 * HOUR_S, 22 * HOUR_S, size),
        customer=customer,
        amount_cents=np.where(draw.random(size) < 0.5, np.ceil(amount / 50_00) * 50_00, amount).astype(np.int64),
        counterparty=FIRST_PAYEE + 10_000_000 + draw.integers(0, 10_000_000, size),
        category_risk=np.zeros(size, np.int64),
        country=np.zeros(size, np.int64),
        device=customer * DEVICES_EACH + np.where(draw.random(size) < 0.08, draw.integers(2, DEVICES_EACH, size), 0),
        channel=np.full(size, Channel.TRANSFER, np.int64),
        typology=np.zeros(size, np.int64),
    )


def _favourites(customer: Column, n: int, draw: np.random.Generator) -> Column:
    """A merchant for each payment: eight favourites in seven of ten cases, else anyone, the popular ones more often."""
    popularity = 1.0 / np.arange(1, MERCHANTS + 1)
    popularity /= popularity.sum()
    favourites = draw.choice(MERCHANTS, size=(n, 8), p=popularity)
    chosen = favourites[customer, draw.integers(0, 8, len(customer))]
    anyone = draw.choice(MERCHANTS, size=len(customer), p=popularity)
    return np.where(draw.random(len(customer)) < 0.7, chosen, anyone).astype(np.int64)


def _category_risk(merchant: Column) -> Column:
    """0 to 4, fixed for each merchant: one in ten sells what thieves like."""
    return np.array([0, 0, 1, 1, 1, 2, 2, 0, 3, 4], np.int64)[(merchant * 7 + 3) % 10]


def _payee(customer: Column, draw: np.random.Generator) -> Column:
    size = len(customer)
    own = FIRST_PAYEE + _POPULAR_PAYEES + customer * _OWN_PAYEES + draw.integers(0, _OWN_PAYEES, size)
    popular = FIRST_PAYEE + draw.integers(0, _POPULAR_PAYEES, size)
    stranger = FIRST_PAYEE + 20_000_000 + draw.integers(0, 10_000_000, size)
    chance = draw.random(size)
    return np.where(chance < 0.65, own, np.where(chance < 0.92, popular, stranger)).astype(np.int64)


def _country(customer: Column, time_s: Column, profile: Profile, draw: np.random.Generator) -> Column:
    """Travellers spend ten days in one other country; anybody buys abroad once in a while."""
    n = profile.customers
    leaves = draw.integers(0, DAYS, n) * DAY_S
    away = (draw.random(n) < profile.travellers)[customer]
    away &= (time_s >= leaves[customer]) & (time_s < leaves[customer] + 10 * DAY_S)
    there = draw.integers(1, COUNTRIES, n)[customer]
    web = draw.random(len(customer)) < 0.02
    return np.where(away, there, np.where(web, draw.integers(1, COUNTRIES, len(customer)), 0)).astype(np.int64)


def _device(customer: Column, time_s: Column, draw: np.random.Generator) -> Column:
    """Two in daily use; a third of the customers gets a new telephone on some day and keeps it."""
    n = int(customer.max()) + 1
    changes = draw.integers(0, 3 * DAYS, n)[customer] * DAY_S
    number = draw.integers(0, 2, len(customer)) + np.where(time_s > changes, 2, 0)
    number = np.where(draw.random(len(customer)) < 0.003, draw.integers(4, DEVICES_EACH, len(customer)), number)
    return (customer * DEVICES_EACH + number).astype(np.int64)
