"""A round's time, memory and traffic, from stage costs. Trust zone: the developer's machine.

How a round is reckoned, in the order in which it happens:

1. **Broadcast**: the aggregator seals the model once and hands it to the host, which puts it on disk. Sites wait.
2. **Collect**: each site fetches, opens, trains, seals and sends; the host takes it in and the aggregator checks each
   update when it is whole. Sites do this side by side, so the phase lasts as long as one undisturbed site, and then
   until whatever is busiest is through with all others: the host's core, its link, its places for transfers
   (``limits.downloads``, ``limits.uploads``), or the aggregator. On one machine the cores are shared by all of them.
3. **Fold**: the aggregator reads all updates once more and folds them, in as many lanes as it has cores.

Memory is what the parts hold by design: two models in the aggregator (moments of a server optimiser as much again,
each) and some pages a session; in each host what transfers may hold, whatever the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.host.limits import Limits
from simulations.capacity.costs import Costs
from simulations.capacity.links import Link
from trusted.documents.layout import BYTES_PER_ELEMENT, MAX_ELEMENTS
from trusted.documents.terms import MAX_COHORT, MAX_COMPARED, Rule
from trusted.encoding import Encoding

# Fitted to measured rounds, not measured one by one (docs/simulation.md): small calls of each site in a round, and
# those at the begin and end of a phase, when everybody waits for checkpoints, witnesses and the last message.
CALLS, CALLS_OF_A_PHASE = 12, 16
_MEGABYTE = 1e6
_LIMITS = Limits()
_PROCESS_MB = 75.0  # an empty aggregator, an empty host
_SESSION_MB = 0.05
_TRANSFER_MB = 2.1  # of the host, for each site whose transfers are under way: a buffer for each thread that moves them
_SITE_MB = 0.085  # of the host, for each: its stream and its connections
_COMPARES = frozenset({Rule.MEDIAN, Rule.TRIMMED_MEAN})
_PIECES_COMPARED_MB = 1.05  # of each update and lane


@dataclass(frozen=True, slots=True)
class Federation:
    """What is planned.

    Attributes:
        sites: that take part in a round.
        model_bytes: of the exchanged model in float32.
        update: how updates travel.
        train_s: how long a site trains; None for the link and machinery alone.
        site_link, host_link: None: everything on one machine, whose cores all share.
        host_cores: hosts' processes, one core each (replicas).
        enclave_cores: jobs that check updates at a time, and lanes of the fold.
        transfers: downloads, and uploads, that each host handles at a time.
        moments: of the server optimiser: adam has two.
    """

    sites: int
    model_bytes: float
    train_s: float = 0.0
    site_link: Link | None = None
    host_link: Link | None = None
    update: Encoding = Encoding.FLOAT32
    rule: Rule = Rule.WEIGHTED_MEAN
    host_cores: int = 1
    enclave_cores: int = 2
    transfers: int = _LIMITS.uploads
    moments: int = 0

    def __post_init__(self) -> None:
        if self.sites < 1 or self.model_bytes < BYTES_PER_ELEMENT or self.train_s < 0:
            raise ValueError("capacity: at least one site, one number and no negative time expected")
        if min(self.host_cores, self.enclave_cores, self.transfers) < 1:
            raise ValueError("capacity: at least one core and one transfer at a time expected")
        if (self.site_link is None) != (self.host_link is None):
            raise ValueError("capacity: give both the sites' link and the host's, or neither")

    @property
    def update_bytes(self) -> float:
        """Of one update as it travels."""
        return float(self.update.size_bytes(int(self.model_bytes) // BYTES_PER_ELEMENT))


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of each phase; what of ``collect`` each resource alone would need; megabytes; what stands in the way."""

    phases_s: Mapping[str, float]
    busy_s: Mapping[str, float]
    memory_mb: Mapping[str, float]
    traffic_mb: Mapping[str, float]
    notes: tuple[str, ...] = field(default=())

    @property
    def round_s(self) -> float:
        """From one committed round to the next."""
        return sum(self.phases_s.values())

    @property
    def bottleneck(self) -> str:
        """What a faster round would need more of."""
        longest = max(self.phases_s, key=lambda name: self.phases_s[name])
        return max(self.busy_s, key=lambda name: self.busy_s[name]) if longest == "collect" else longest

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "round_s": self.round_s,
            "bottleneck": self.bottleneck,
            "phases_s": dict(self.phases_s),
            "busy_s": dict(self.busy_s),
            "memory_mb": dict(self.memory_mb),
            "traffic_mb": dict(self.traffic_mb),
            "notes": list(self.notes),
        }


def predict(planned: Federation, costs: Costs) -> Prediction:
    """The round that ``planned`` would have on machines with these ``costs``."""
    work = _Work(planned, costs)
    collect_s, busy = work.collect()
    waited_s = CALLS_OF_A_PHASE * costs.call_s
    return Prediction(
        {
            "broadcast": waited_s + work.broadcast_s(),
            "collect": waited_s + collect_s,
            "fold": waited_s + work.fold_s(),
        },
        busy,
        _memory(planned),
        _traffic(planned),
        tuple(_notes(planned)),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    planned: Federation
    costs: Costs

    @property
    def _alone(self) -> bool:
        return self.planned.site_link is None

    def broadcast_s(self) -> float:
        """The aggregator seals while it sends; the host writes while it receives."""
        each = 1 / self.costs.seal + 1 / self.costs.socket
        return self.planned.model_bytes * (
            each + 1 / self.costs.disk if self._alone else max(each, 1 / self.costs.disk)
        )

    def fold_s(self) -> float:
        """Every update is read from the host once more."""
        planned, costs = self.planned, self.costs
        lanes = min(planned.enclave_cores, costs.cores) if self._alone else planned.enclave_cores
        carried = planned.sites * planned.update_bytes / costs.socket
        folded = planned.sites * planned.model_bytes / costs.fold
        return (carried + folded) / lanes if self._alone else max(carried, folded / lanes)

    def collect(self) -> tuple[float, dict[str, float]]:
        """How long, and what each resource alone would be busy."""
        sites = self.planned.sites
        busy = self._shared() if self._alone else self._apart()
        path = self._site_s()
        return path + max(busy.values()) * (sites - 1) / sites, busy

    def _site_s(self) -> float:
        """One site that nobody disturbs."""
        planned, costs = self.planned, self.costs
        down, up = planned.model_bytes, planned.update_bytes
        at_site = down / costs.open + planned.train_s + up / costs.seal + up / costs.check
        moved = down / costs.down + up / costs.up
        if planned.site_link is not None and planned.host_link is not None:
            site, host = planned.site_link, planned.host_link
            moved = max(down / costs.down, down / min(site.down, host.up))
            moved += max(up / costs.up, up / min(site.up, host.down))
            moved += CALLS * (site.round_trip_s + host.round_trip_s)
        return at_site + moved + CALLS * costs.call_s

    def _apart(self) -> dict[str, float]:
        planned, costs = self.planned, self.costs
        site, host = planned.site_link, planned.host_link
        if site is None or host is None:
            raise RuntimeError("capacity: links expected")
        down, up = planned.sites * planned.model_bytes, planned.sites * planned.update_bytes
        calls = planned.sites * CALLS * costs.call_s
        moved = down / costs.down + up * (1 / costs.up + 1 / costs.socket)
        slots = min(planned.sites, planned.transfers * planned.host_cores)
        return {
            "host's processor": (moved + calls) / planned.host_cores,
            "host's link": max(down / host.up, up / host.down),
            "host's places for transfers": max(down / min(site.down, host.up), up / min(site.up, host.down)) / slots,
            "aggregator's check": up / costs.check / planned.enclave_cores + up / costs.socket + calls,
        }

    def _shared(self) -> dict[str, float]:
        """All processes on the cores of one machine: a socket's or a call's cost was measured with both its ends."""
        planned, costs = self.planned, self.costs
        down, up = planned.sites * planned.model_bytes, planned.sites * planned.update_bytes
        host = down / costs.down + up / costs.up
        sites = down * (1 / costs.down + 1 / costs.open) + up * (1 / costs.up + 1 / costs.seal)
        aggregator = up * (1 / costs.check + 2 / costs.socket)
        calls = 2 * planned.sites * CALLS * costs.call_s
        return {
            "all cores": (host + sites + aggregator + calls) / costs.cores,
            "host's processor": host + planned.sites * CALLS * costs.call_s,
        }


def _memory(planned: Federation) -> dict[str, float]:
    model_mb = planned.model_bytes / _MEGABYTE
    served = -(-planned.sites // planned.host_cores)  # by each host
    busy = min(served, planned.transfers)
    compared = 0.0
    if planned.rule in _COMPARES:
        compared = min(planned.sites, MAX_COMPARED) * planned.enclave_cores * _PIECES_COMPARED_MB
    moved_mb = model_mb + planned.update_bytes / _MEGABYTE
    return {
        "aggregator": _PROCESS_MB + (2 + planned.moments) * model_mb + _SESSION_MB * planned.sites + compared,
        "host": _PROCESS_MB + busy * min(_TRANSFER_MB, moved_mb) + _SITE_MB * served,
        "worker, besides training": _PROCESS_MB + 2 * model_mb,
        "host's disk": model_mb + planned.sites * planned.update_bytes / _MEGABYTE,
    }


def _traffic(planned: Federation) -> dict[str, float]:
    down, up = planned.model_bytes / _MEGABYTE, planned.update_bytes / _MEGABYTE
    return {"each site down": down, "each site up": up, "host out": planned.sites * down, "host in": planned.sites * up}


def _notes(planned: Federation) -> list[str]:
    """What plan or host would refuse today, so that nobody takes a prediction for a promise."""
    sites, most_gb = planned.sites, MAX_ELEMENTS * BYTES_PER_ELEMENT / 1e9
    notes = []
    if sites > MAX_COHORT:
        notes.append(f"A plan takes at most {MAX_COHORT:,} members: {sites:,} sites are several federations today.")
    if planned.model_bytes > most_gb * 1e9:
        notes.append(f"A plan takes at most {most_gb:.1f} GB in float32: exchange less (adapters), or raise the bound.")
    if sites * planned.update_bytes > _LIMITS.spool_bytes:
        held = _LIMITS.spool_bytes >> 30
        notes.append(f"The updates exceed the {held} GiB that a host keeps on disk: raise limits.spool_bytes.")
    if planned.rule in _COMPARES and sites > MAX_COMPARED:
        notes.append(f"The rule {planned.rule.value} compares at most {MAX_COMPARED} updates: draw a smaller cohort.")
    return notes
