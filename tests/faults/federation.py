"""The federation under faults: three members that train by a formula, so that its model is the same in every run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from secrets import token_bytes
from typing import Any

import numpy as np
from securesystemslib.signer import CryptoSigner

from softtee.chip import SoftwareRoot
from tests.world import ChipProvider, World
from trusted.blob import open_blob
from trusted.documents.dsse import new_envelope, sign
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.documents.order import PAYLOAD_TYPE, Action, Order
from trusted.documents.plan import initial_digest
from trusted.documents.terms import Deadlines
from trusted.evidence.sealing import derived_key
from trusted.release import release_name, verify_release

MEMBERS = ("site-1", "site-2", "site-3")
ROUNDS = 2
LAYOUT = Layout((TensorSpec("weight", Dtype.FLOAT32, (200, 100)), TensorSpec("bias", Dtype.FLOAT32, (7,))))
# A frame that is kept back is missed by the next challenge. Nothing else here waits for a clock.
DEADLINES = Deadlines(round_s=600, lease_s=120, reattest_s=3)


@dataclass(frozen=True, slots=True)
class KeyedProvider:
    """A machine whose sealing key comes back at every start of the same role."""

    machine: ChipProvider
    root: bytes = field(repr=False)

    def evidence(self, report_data: bytes) -> Any:
        return self.machine.evidence(report_data)

    def devices(self, challenge: bytes) -> tuple[Any, ...]:
        return ()

    def sealing_key(self, label: bytes) -> bytes:
        return derived_key(self.root, label)


@dataclass(frozen=True, slots=True)
class _Result:
    delta: np.ndarray
    num_examples: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Formula:
    """Trains: what comes out depends on model, round and member alone."""

    place: int
    pause_s: float = 0.0

    def train(self, model: np.ndarray, round_number: int, *, timeout_s: float) -> _Result:
        begun = time.monotonic()
        time.sleep(self.pause_s)
        factor = np.float32(0.01 * (self.place + 1) * round_number)
        delta = np.sin(model * np.float32(self.place + 1)) * factor
        said = {"event": "trained", "round": round_number, "seconds": time.monotonic() - begun}
        os.write(2, (json.dumps(said) + "\n").encode())  # to this site's log, whole, whatever else is said there
        return _Result(delta.astype("<f4"), 10 * (self.place + 1), {"auc": 0.5})

    def beat(self) -> int:
        """It works while it trains, as far as anybody can tell."""
        return int(time.monotonic() * 100)

    def stop(self) -> None:
        """Nothing runs."""


class Federation(World):
    """Members, documents and keys; the same for every schedule of one test process."""

    @classmethod
    def found(
        cls, members: tuple[str, ...] = MEMBERS, rounds: int = ROUNDS, layout: Layout = LAYOUT, **changes: Any
    ) -> Federation:
        """Agree on a plan."""
        initial = np.linspace(-1, 1, layout.elements, dtype="<f4")
        now = datetime.now(UTC).replace(microsecond=0)
        root = SoftwareRoot.create(now=now)
        plan = {
            "rounds": rounds,
            "layout": layout,
            "initial_sha256": initial_digest(layout, initial.data.cast("B")),
            "deadlines": DEADLINES,
        }
        made = cls(root, root.issue_chip(now=now), members, plan | changes, now=now)
        made.initial = initial
        made.machines = {name: token_bytes(32) for name in ("aggregator", *members)}
        made.aggregators = made.provider("aggregator")
        made.workers = made.provider("worker")
        made.papers = {member: made.membership(member) for member in members}
        made.rules = {member: made.participant(member)._rule for member in members}
        return made

    def machine(self, name: str) -> KeyedProvider:
        """Where ``name`` (a member, or ``aggregator``) runs."""
        return KeyedProvider(self.aggregators if name == "aggregator" else self.workers, self.machines[name])

    def start_order(self) -> bytes:
        """The order that starts the run, signed by the first member."""
        issued = datetime.now(UTC).replace(microsecond=0)
        document = Order(Action.START, self.plan.digest, self.members[0], token_bytes(16), issued)
        signer = CryptoSigner(self.signing[self.members[0]])
        return sign(new_envelope(document.encode(), PAYLOAD_TYPE), signer).encode()

    def opened_release(self, read: Any) -> tuple[bytes, tuple[tuple[int, tuple[str, ...]], ...]]:
        """The released model, verified and opened by its recipient, and the rounds that it says it holds."""
        now = datetime.now(UTC) + timedelta(seconds=5)
        verified = verify_release(read(release_name(self.plan.digest)), self.federation, now)
        key, release = verified.open_key(self.members[0], self.sealing[self.members[0]]), verified.release
        header = release.header(self.federation)
        opened = open_blob([read(release.blob)], expected=header, key=key, verify_key=release.verify_key)
        return b"".join(opened), tuple(release.contributions)
