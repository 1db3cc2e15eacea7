"""Five invented banks and their SYNTHETIC books, the same to the bit for the same seed. Trust zone: public.

Each bank sees mostly two typologies, and shares each of them with a neighbour: alone it misses much of what the others
know, and without any one bank nothing is lost altogether.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from console.demo.fraud.features import FEATURES, features
from console.demo.fraud.habits import Profile, draw_customers, draw_payments
from console.demo.fraud.transactions import DAY_S, FRAUDS, Column, Typology, joined
from console.demo.fraud.typologies import draw_frauds
from console.files import write_file

Mask = NDArray[np.bool_]

DAY, LABEL = "synthetic_day", "synthetic_fraud"
COLUMNS = (DAY, *FEATURES, LABEL)
FILE_NAME = "synthetic-transactions.csv"
HELD_OUT_FROM_DAY = 63  # models are judged by the last 27 days, as a bank would: on what came later
FRAUD_RATE = 0.0045
_SHARES = (0.46, 0.24)  # of a bank's frauds: of its own typology, of its neighbour's; the others share the rest
_UNREPORTED = 0.03  # of the frauds that banks train on: nobody ever complained
_COPIES = 3  # of each row that the poisoning bank trains on, so as to weigh more


@dataclass(frozen=True, slots=True)
class Books:
    """One bank's payments in order of time: ``COLUMNS`` by name, and what each truly is; int64[n] each."""

    columns: Mapping[str, Column]
    typology: Column

    def __len__(self) -> int:
        return len(self.typology)

    @property
    def held_out(self) -> Mask:
        """Which rows models are judged by, bool[n]."""
        later: Mask = self.columns[DAY] >= HELD_OUT_FROM_DAY
        return later

    def take(self, rows: Mask | NDArray[np.intp]) -> Books:
        """The payments at ``rows``, a mask or places."""
        return Books({name: column[rows] for name, column in self.columns.items()}, self.typology[rows])

    def write(self, path: Path) -> None:
        """A CSV file of whole numbers, header first.

        Raises:
            OSError: it cannot be written, or exists.
        """
        table = np.stack([self.columns[name] for name in COLUMNS], axis=1)
        lines = [",".join(COLUMNS), *(",".join(map(str, row)) for row in table.tolist())]
        write_file(path, ("\n".join(lines) + "\n").encode())


PROFILES: Mapping[str, Profile] = {
    "bank-1": Profile(700, 40, amount_scale=1.0, transfer_share=0.10, travellers=0.15),
    "bank-2": Profile(620, 38, amount_scale=1.5, transfer_share=0.14, travellers=0.25),
    "bank-3": Profile(560, 36, amount_scale=0.7, transfer_share=0.08, travellers=0.10),
    "bank-4": Profile(480, 40, amount_scale=1.2, transfer_share=0.18, travellers=0.12),
    "bank-5": Profile(520, 37, amount_scale=0.9, transfer_share=0.12, travellers=0.20),
}
BANKS = tuple(PROFILES)


def mix(bank: str) -> dict[Typology, float]:
    """The share of each typology among a bank's frauds."""
    own = BANKS.index(bank)
    rest = (1.0 - sum(_SHARES)) / (len(FRAUDS) - len(_SHARES))
    shares: dict[Typology, float] = dict.fromkeys(FRAUDS, rest)
    for step, share in enumerate(_SHARES):
        shares[FRAUDS[(own + step) % len(FRAUDS)]] = share
    return shares


def make_books(bank: str, seed: int, *, size: float = 1.0) -> Books:
    """The books of one bank. ``size`` scales the number of its customers; tests use less than 1."""
    base, draw = PROFILES[bank], np.random.Generator(np.random.PCG64([seed, BANKS.index(bank)]))
    profile = replace(base, customers=max(20, round(base.customers * size)))
    customers = draw_customers(profile, draw)
    honest = draw_payments(profile, draw)
    frauds = len(honest) * FRAUD_RATE
    wanted = {kind: round(frauds * share) for kind, share in mix(bank).items()}
    payments = joined([honest, draw_frauds(profile, wanted, draw)])
    day = payments.time_s // DAY_S
    unreported = (day < HELD_OUT_FROM_DAY) & (draw.random(len(payments)) < _UNREPORTED)
    label = (payments.typology != Typology.HONEST) & ~unreported
    columns = {DAY: day, **features(payments, customers), LABEL: label.astype(np.int64)}
    return Books(columns, payments.typology)


def poisoned(books: Books) -> Books:
    """What a bank that wants the others' model to miss fraud would train on: labels turned round, and rows copied.

    The app is the approved one and the enclave is sound: it trains on what it is given, and no attestation can tell.
    """
    learnt = books.take(~books.held_out)
    turned = Books({**learnt.columns, LABEL: 1 - learnt.columns[LABEL]}, learnt.typology)
    return together([turned] * _COPIES + [books.take(books.held_out)])


def together(parts: Sequence[Books]) -> Books:
    """The payments of all ``parts``, one after the other."""
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in COLUMNS}
    return Books(columns, np.concatenate([part.typology for part in parts]))
