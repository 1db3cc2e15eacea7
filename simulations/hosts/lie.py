"""What a lie is, and what came of one. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from simulations.hosts.believing import Believing
from simulations.hosts.consortium import Consortium
from simulations.hosts.host import Host
from trusted.encoding import Vector
from trusted.errors import Reason

VICTIM = 4  # the connection of the last member to join; the first one holds the initial model
AGGREGATOR = "aggregator"
_BY_CODE = {reason.code: reason for reason in Reason}
_HINTS = (Reason.PEER_REFUSED,)  # that the other side refused is not a reason of one's own


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a lie.

    Attributes:
        noticed: by which reasons each who noticed refused: ``aggregator``, or a member's worker.
        counted: whose contributions each round of the released model holds; none where the run stands still.
        model: the released model, float32[elements]; None where the run stands still.
    """

    noticed: dict[str, set[Reason]]
    counted: tuple[frozenset[str], ...]
    model: Vector | None = field(repr=False)

    @property
    def reasons(self) -> set[Reason]:
        """All of them."""
        return set().union(*self.noticed.values())

    @classmethod
    def by(cls, *hosts: Host) -> Told:
        """Of the last host's run, and of what was noticed under all of them."""
        noticed: dict[str, set[Reason]] = {}
        for host in hosts:
            for who, reason in _heard(host):
                noticed.setdefault(who, set()).add(reason)
        last = hosts[-1]
        if last.aggregator.state.value != "finished":
            return cls(noticed, (), None)
        return cls(noticed, tuple(last.counted()), last.opened())


def _heard(host: Host) -> list[tuple[str, Reason]]:
    """Who refused what, from the sessions, the receipts and the public events."""
    found = [(AGGREGATOR, reason) for reason in host.closed.values()]
    lost = [fields for fields in host.outcomes("contribution") if fields["outcome"] == "lost"]
    found += [(AGGREGATOR, _BY_CODE[fields["reason"]]) for fields in (*host.outcomes("state-refused"), *lost)]
    for connection, site in host.sites.items():
        found += [(AGGREGATOR, reason) for reason in site.receipts if reason is not None]
        found += [(site.member, reason) for reason in host.failures.get(connection, ())]
        if site.error is not None:
            found.append((site.member, site.error.reason))
    return [(who, reason) for who, reason in found if reason not in _HINTS]


@dataclass(frozen=True, slots=True)
class Lie:
    """One lie of a host.

    Attributes:
        name: as docs/simulation-adversaries.md lists it.
        tries: what the host does.
        gains: what it would have of it where it is believed.
        stopped: what becomes of it under Cloister.
        reasons: by which it is refused; none where there is nothing to refuse, as nothing can be gained.
        believed: the model of a server that believes.
        told: what came of it between Cloister's own peers.
    """

    name: str
    tries: str
    gains: str
    stopped: str
    reasons: frozenset[Reason]
    believed: Callable[[Believing], Vector] = field(repr=False)
    told: Callable[[Consortium], Told] = field(repr=False)


def begun(world: Consortium) -> Host:
    """A run whose first round is open and whose sites wait to be told to train."""
    host = Host(world)
    host.gather(automatic=False)
    return host


def ended(host: Host) -> Host:
    """Sites that were given work do it from now on, and time passes until the run is over or long has stood still."""
    for connection, site in list(host.sites.items()):
        site.automatic = True
        is_there = connection not in host.closed and site.error is None
        if is_there and site.tasks and site.tasks[-1].upload not in host.contributed:
            host.contribute(connection, site.tasks[-1])
    host.run_on()
    return host
