"""The frauds, SYNTHETIC: five typologies, each with its own traces in a customer's history. Trust zone: public.

Every one hides in what honest customers do as well; none is told by one column alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from console.demo.fraud.habits import COUNTRIES, DEVICES_EACH, FIRST_PAYEE, MERCHANTS, Profile
from console.demo.fraud.transactions import DAY_S, DAYS, HOUR_S, Channel, Column, Transactions, Typology, joined

_FOREIGN_DEVICE = 1_000_000_000  # above every customer's own
_MULES = FIRST_PAYEE + 50_000_000
_STRANGERS = FIRST_PAYEE + 60_000_000
_RISKY_MERCHANTS = np.flatnonzero((np.arange(MERCHANTS) * 7 + 3) % 10 >= 8)


def draw_frauds(profile: Profile, wanted: Mapping[Typology, int], draw: np.random.Generator) -> Transactions:
    """About as many fraudulent payments as ``wanted`` of each typology, spread over all days."""
    return joined([_MAKERS[kind](profile, payments, draw) for kind, payments in sorted(wanted.items()) if payments > 0])


def _card_testing(profile: Profile, payments: int, draw: np.random.Generator) -> Transactions:
    """Bursts of three to six tiny payments in minutes, at shops that anybody may use, from a machine never seen."""
    each = _episodes(payments, 3, 6, draw)
    customer, start = _victims(profile, each, draw), _moments(each, 0, 24, draw)
    size = len(customer)
    return Transactions(
        time_s=start + draw.integers(0, 900, size),
        customer=customer,
        amount_cents=draw.integers(60, 500, size),
        counterparty=draw.integers(0, MERCHANTS, size),
        category_risk=draw.integers(0, 3, size),
        country=np.where(draw.random(size) < 0.3, draw.integers(1, COUNTRIES, size), 0),
        device=_strange_devices(each, draw, known=customer, share_known=0.25),
        channel=np.full(size, Channel.ONLINE, np.int64),
        typology=np.full(size, Typology.CARD_TESTING, np.int64),
    )


def _takeover(profile: Profile, payments: int, draw: np.random.Generator) -> Transactions:
    """One to three transfers at night from a machine never seen, to a stranger."""
    each = _episodes(payments, 1, 3, draw)
    customer, start = _victims(profile, each, draw), _moments(each, 0, 6, draw)
    size = len(customer)
    return Transactions(
        time_s=start + draw.integers(0, 2 * HOUR_S, size),
        customer=customer,
        amount_cents=draw.lognormal(np.log(420_00 * profile.amount_scale), 0.7, size).astype(np.int64),
        counterparty=_STRANGERS + draw.integers(0, 10_000_000, size),
        category_risk=np.zeros(size, np.int64),
        country=np.zeros(size, np.int64),
        device=_strange_devices(each, draw, known=customer, share_known=0.1),
        channel=np.full(size, Channel.TRANSFER, np.int64),
        typology=np.full(size, Typology.TAKEOVER, np.int64),
    )


def _mule(profile: Profile, payments: int, draw: np.random.Generator) -> Transactions:
    """Five to nine customers pay the same young account within two days, middling sums, each from their own device."""
    each = _episodes(payments, 5, 9, draw)
    size = int(each.sum())
    customer = draw.integers(0, profile.customers, size)
    return Transactions(
        time_s=_moments(each, 8, 20, draw) + draw.integers(0, 2 * DAY_S, size),
        customer=customer,
        amount_cents=draw.lognormal(np.log(110_00 * profile.amount_scale), 0.6, size).astype(np.int64),
        counterparty=_MULES + np.repeat(draw.integers(0, 10_000_000, len(each)), each),
        category_risk=np.zeros(size, np.int64),
        country=np.zeros(size, np.int64),
        device=customer * DEVICES_EACH + draw.integers(0, 2, size),
        channel=np.full(size, Channel.TRANSFER, np.int64),
        typology=np.full(size, Typology.MULE, np.int64),
    )


def _abroad(profile: Profile, payments: int, draw: np.random.Generator) -> Transactions:
    """Two to four dear things bought online in one far country, where the goods sell again."""
    each = _episodes(payments, 2, 4, draw)
    customer, start = _victims(profile, each, draw), _moments(each, 0, 24, draw)
    size = len(customer)
    return Transactions(
        time_s=start + draw.integers(0, 6 * HOUR_S, size),
        customer=customer,
        amount_cents=draw.lognormal(np.log(150_00 * profile.amount_scale), 0.6, size).astype(np.int64),
        counterparty=draw.choice(_RISKY_MERCHANTS, size).astype(np.int64),
        category_risk=draw.integers(2, 5, size),
        country=np.repeat(draw.integers(1, COUNTRIES, len(each)), each),
        device=_strange_devices(each, draw, known=customer, share_known=0.5),
        channel=np.full(size, Channel.ONLINE, np.int64),
        typology=np.full(size, Typology.ABROAD, np.int64),
    )


def _scam(profile: Profile, payments: int, draw: np.random.Generator) -> Transactions:
    """One or two large round sums to a stranger, by day, from the customer's own device."""
    each = _episodes(payments, 1, 2, draw)
    customer, start = _victims(profile, each, draw), _moments(each, 9, 18, draw)
    size = len(customer)
    amount = draw.lognormal(np.log(1_500_00 * profile.amount_scale), 0.5, size)
    return Transactions(
        time_s=start + draw.integers(0, 2 * HOUR_S, size),
        customer=customer,
        amount_cents=(np.ceil(amount / 100_00) * 100_00).astype(np.int64),
        counterparty=_STRANGERS + draw.integers(0, 10_000_000, size),
        category_risk=np.zeros(size, np.int64),
        country=np.zeros(size, np.int64),
        device=customer * DEVICES_EACH + draw.integers(0, 2, size),
        channel=np.full(size, Channel.TRANSFER, np.int64),
        typology=np.full(size, Typology.SCAM, np.int64),
    )


_MAKERS: Mapping[Typology, Callable[[Profile, int, np.random.Generator], Transactions]] = {
    Typology.CARD_TESTING: _card_testing,
    Typology.TAKEOVER: _takeover,
    Typology.MULE: _mule,
    Typology.ABROAD: _abroad,
    Typology.SCAM: _scam,
}


def _episodes(payments: int, low: int, high: int, draw: np.random.Generator) -> Column:
    """Sizes of episodes, ``low`` to ``high`` each, until there are ``payments``."""
    sizes = draw.integers(low, high + 1, -(-payments // low))
    return sizes[: int(np.searchsorted(np.cumsum(sizes), payments)) + 1].astype(np.int64)


def _victims(profile: Profile, each: Column, draw: np.random.Generator) -> Column:
    return np.repeat(draw.integers(0, profile.customers, len(each)), each)


def _moments(each: Column, from_hour: int, to_hour: int, draw: np.random.Generator) -> Column:
    """When each payment's episode starts, between two hours of some day."""
    day = draw.integers(1, DAYS - 2, len(each))
    return np.repeat(day * DAY_S + draw.integers(from_hour * HOUR_S, to_hour * HOUR_S, len(each)), each)


def _strange_devices(each: Column, draw: np.random.Generator, *, known: Column, share_known: float) -> Column:
    """One machine for each episode, never seen before; a share of the episodes uses the customer's own."""
    strange = np.repeat(_FOREIGN_DEVICE + draw.integers(0, 1 << 30, len(each)), each)
    own = np.repeat(draw.random(len(each)) < share_known, each)
    return np.where(own, known * DEVICES_EACH, strange).astype(np.int64)
