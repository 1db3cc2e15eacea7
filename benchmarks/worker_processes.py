"""Members' workers for a benchmark: real ones, with a trainer that answers at once. Trust zone: developer's machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.consortium import Consortium
from trusted.channel.federation import Federation
from trusted.encoding import Vector
from trusted.evidence.boot import Boot, Role
from worker.start import Options, Prepared


@dataclass(frozen=True, slots=True)
class Address:
    """Where the host is: ``name:port``, the CA of its certificate (PEM), and its door."""

    target: str
    ca: bytes
    door: str


@dataclass(frozen=True, slots=True)
class _Result:
    delta: Vector
    num_examples: int = 1
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Echo:
    """Trains nothing: every round gives the same update, ``after_s``."""

    update: Vector
    after_s: float = 0.0

    def train(self, model: Vector, round: int, timeout_s: float) -> _Result:
        """The update, whatever the model."""
        time.sleep(self.after_s)
        return _Result(self.update)

    def beat(self) -> int:
        """Nothing works."""
        return 0

    def stop(self) -> None:
        """Nothing runs."""


def serve_members(
    consortium: Consortium,
    members: list[str],
    address: Address,
    *,
    initial: Vector,
    update: Vector,
    training_s: float = 0.0,
) -> None:
    """Take part for all ``members`` until the run is over, each on a thread of its own."""
    echo = _Echo(update, training_s)
    threads = [
        threading.Thread(target=_take_part, args=(consortium, member, address, initial, echo)) for member in members
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _take_part(consortium: Consortium, member: str, address: Address, initial: Vector, echo: _Echo) -> None:
    from trusted.allocator import keep_chunk_memory
    from worker.__main__ import take_part

    keep_chunk_memory()
    blank: dict[str, Any] = dict.fromkeys(Options.__slots__, "")
    options = Options(**blank | {"coordinators": (address.target,), "ca_pem": address.ca.decode()})
    envelopes = consortium.charter.envelope, consortium.plan.envelope
    boot = Boot(Role.WORKER, *envelopes, {}, consortium.provider(Role.WORKER.value))
    prepared = Prepared(
        federation=Federation(consortium.charter, consortium.plan),
        rule=consortium.rule(member),
        membership=consortium.membership(member),
        trainer=echo,  # type: ignore[arg-type]
        initial=initial if member == "site-1" else None,
    )
    take_part(boot, options, prepared)
