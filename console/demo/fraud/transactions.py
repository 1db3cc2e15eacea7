"""What one SYNTHETIC bank's books hold: payments and customers, as columns. Trust zone: public, invented data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.int64]

DAYS = 90
DAY_S = 86_400
HOUR_S = 3_600


class Channel(IntEnum):
    """How a payment was made."""

    CARD = 0
    ONLINE = 1
    TRANSFER = 2


class Typology(IntEnum):
    """What kind of fraud a payment is; 0 is none."""

    HONEST = 0
    CARD_TESTING = 1  # stolen numbers are tried out: a burst of tiny payments online
    TAKEOVER = 2  # somebody else's device empties the account at night
    MULE = 3  # many victims pay the same young account
    ABROAD = 4  # a stolen card buys dear things in a far country, online
    SCAM = 5  # the customer is talked into paying a stranger, from their own device by day


FRAUDS = tuple(kind for kind in Typology if kind is not Typology.HONEST)


@dataclass(frozen=True, slots=True)
class Customers:
    """What a bank knows of each customer: int64[customers] each."""

    age_years: Column
    opened_day: Column  # before day 0, so negative
    opening_cents: Column
    daily_income_cents: Column


@dataclass(frozen=True, slots=True)
class Transactions:
    """Payments in no particular order: int64[n] each.

    Attributes:
        time_s: since the start of day 0.
        counterparty: merchant or payee.
        category_risk: 0 to 4, of the merchant's category.
        country: 0 is the bank's own.
        device: by number; a customer's own are few.
        typology: what it truly is.
    """

    time_s: Column
    customer: Column
    amount_cents: Column
    counterparty: Column
    category_risk: Column
    country: Column
    device: Column
    channel: Column
    typology: Column

    def __len__(self) -> int:
        return len(self.time_s)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Transactions:
        """The payments at ``rows``, a mask or places."""
        return Transactions(*(getattr(self, column.name)[rows] for column in fields(self)))


def joined(parts: list[Transactions]) -> Transactions:
    """All payments of ``parts``, in the order of time, then of customer and counterparty."""
    columns = [np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Transactions)]
    whole = Transactions(*columns)
    return whole.take(np.lexsort((whole.amount_cents, whole.counterparty, whole.customer, whole.time_s)))
