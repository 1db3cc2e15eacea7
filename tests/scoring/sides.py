"""Both sides of a scoring session, joined without a wire: the service scores by a formula, everything else is real."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np

from recipient.desk import Desk
from recipient.quota import Quota
from recipient.tenure import Tenure
from tests import world as worlds
from tests.world import NOW, World
from trusted.documents.terms.scoring import ScoringLimits
from trusted.errors import Reason
from trusted.scoring.client import Asker, ClientSession
from trusted.scoring.messages import Table
from trusted.scoring.service import Asked, Served, ServiceSession
from trusted.scoring.terms import Declaration, Statement

SERVICE_MEASUREMENT = b"\xdd" * 48
worlds.MEASUREMENTS.setdefault("recipient", SERVICE_MEASUREMENT)
RECIPIENT, OTHER = "site-1", "site-2"
DECLARATION = Declaration(("x",), ("risk", "doubt"), None)
LIMITS = ScoringLimits(rows_per_request=50, requests_per_minute=5, requests_total=8)
MODEL_SHA256, RELEASE_SHA256 = b"\x11" * 32, b"\x22" * 32
ROWS = np.arange(6, dtype=np.float64).reshape(6, 1)


class Formula:
    """Scores rows as x and 1 - x, until it is wiped."""

    def __init__(self) -> None:
        self.wiped = 0
        self.asked: list[Table] = []

    def score(self, values: Table, timeout_s: float) -> Table:
        if self.wiped:
            raise RuntimeError("a wiped model was asked")
        self.asked.append(values)
        return np.column_stack((values[:, 0], 1 - values[:, 0]))

    def wipe(self) -> None:
        self.wiped += 1


def statement(world: World, **changes: Any) -> Statement:
    bundle = world.plan.document.app.bundle_sha256
    terms = {"release_sha256": RELEASE_SHA256, "model_sha256": MODEL_SHA256, "bundle_sha256": bundle}
    return Statement(**({**terms, "declaration": DECLARATION, "limits": LIMITS} | changes))


def served(world: World, said: Statement | None = None, **provider: Any) -> Served:
    return Served(world.federation, said or statement(world), world.provider("recipient", **provider), b"\x0b" * 16)


def asker(world: World, member: str = RECIPIENT, *, key_of: str | None = None) -> Asker:
    return Asker(member, world.signing[key_of or member])


@dataclass
class Service:
    """A runtime's inside, at a time that the test sets."""

    world: World
    limits: ScoringLimits = LIMITS
    renew_s: float = 60.0
    now: Any = NOW
    counted_s: float = 1000.0
    formula: Formula = field(default_factory=Formula)
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        until = NOW + timedelta(hours=1)
        tenure = Tenure(until, renew_s=self.renew_s, grace_s=10.0, confirmed_s=self.counted_s)
        self.desk = Desk(self.formula, Quota(self.limits), tenure, self._note, 5.0)

    def _note(self, event: str, **fields: Any) -> None:
        self.lines.append({"event": event, **fields})

    def answer(self, asked: Asked) -> Table | Reason:
        return self.desk.answer(asked, self.now, self.counted_s)


def opened(world: World, by: Asker | None = None, **service: Any) -> tuple[ClientSession, ServiceSession]:
    """A session after its welcome; raises what either side refuses."""
    client, session = ClientSession(world.federation), ServiceSession(served(world, **service))
    client.take_proof(sent(session, client.begin()), NOW)
    client.take_welcome(sent(session, client.open(by or asker(world))))
    return client, session


def sent(session: ServiceSession, frame: bytes) -> bytes:
    """What the service answers to a frame of the handshake."""
    taken = session.receive(frame)
    if not isinstance(taken, bytes):
        raise RuntimeError("a frame expected")
    return taken


def request(session: ServiceSession, frame: bytes) -> Asked:
    """The request that a record brought to the service."""
    taken = session.receive(frame)
    if not isinstance(taken, Asked):
        raise RuntimeError("a request expected")
    return taken


def scored(pair: tuple[ClientSession, ServiceSession], service: Service, values: Table = ROWS) -> Table:
    """One question and its answer."""
    client, session = pair
    asked = request(session, client.ask(values))
    return client.take_answer(session.answer(service.answer(asked)))
