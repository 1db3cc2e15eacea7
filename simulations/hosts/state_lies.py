"""Lies about what was: older state, two histories, and who takes part. Trust zone: the developer's machine."""

from __future__ import annotations

from simulations.hosts.believing import MEMBERS, VICTIM, Believing
from simulations.hosts.consortium import Consortium
from simulations.hosts.host import Host
from simulations.hosts.lie import Lie, Told, begun, ended
from simulations.hosts.site import Site
from trusted.documents.terms import Cohort
from trusted.encoding import Vector
from trusted.errors import Reason

_RESTARTS = 5
_WAITED = 30  # ticks of ten seconds


# --- rollback ---------------------------------------------------------------------------------------------------------


def _old_disk_believed(server: Believing) -> Vector:
    older = server.disk.copy()
    server.play()
    return Believing(older).finish(MEMBERS[:-1])  # the first round again, this time without the victim


def _old_disk_told(world: Consortium) -> Told:
    host = begun(world)
    older = dict(host.store.blobs)
    host.contribute_all()
    host.store.blobs = older
    second = host.succeed()
    second.run_on(_WAITED)
    return Told.by(host, second)


def _older_names_told(world: Consortium) -> Told:
    """Every older record lies under the name where a newer one is looked for."""
    host = begun(world)
    older = dict(host.store.blobs)
    host.contribute_all()
    for label in (b"cloister/ledger-segment/v1", b"cloister/run-state/v1"):
        before = [blob for blob in older.values() if label in blob[:64]]
        for name, blob in list(host.store.blobs.items()):
            if label in blob[:64] and name not in older:
                host.store.blobs[name] = before[-1]
    second = host.succeed()
    second.run_on(_WAITED)
    return Told.by(host, second)


# --- fork -------------------------------------------------------------------------------------------------------------


def _fork_believed(server: Believing) -> Vector:
    server.play()
    other = Believing(server.disk.copy())
    other.finish(MEMBERS[:2])  # both are the second round, and each half believes its own
    return server.finish(MEMBERS[2:])


def _fork_told(world: Consortium) -> Told:
    """The second aggregator is given three of four; then the first, which still has all its sessions, goes on."""
    host = begun(world)
    host.contribute_all()
    second = host.succeed(world.members[1:])
    host.contribute_all()
    return Told.by(host, ended(second))


# --- who takes part ---------------------------------------------------------------------------------------------------


def _chosen_believed(server: Believing) -> Vector:
    return server.finish(MEMBERS[:2])


def _redrawn_told(world: Consortium) -> Told:
    """Two of four are drawn; the aggregator is started anew again and again, in the hope of two others.

    Raises:
        RuntimeError: it drew others, which no run of Cloister does.
    """
    host = begun(world.agreeing(cohort=Cohort(world.members, 2, 2)))
    drawn, hosts = _with_tasks(host), [host]
    for _ in range(_RESTARTS):
        hosts.append(hosts[-1].succeed())
        if _with_tasks(hosts[-1]) != drawn:
            raise RuntimeError("another cohort was drawn for the same round")
    ended(hosts[-1])
    return Told.by(*hosts)


def _with_tasks(host: Host) -> set[str]:
    return {site.member for site in host.sites.values() if site.tasks}


def _alone_believed(server: Believing) -> Vector:
    server.play((VICTIM,))  # the model is now the start and the victim's update, and the host can subtract
    return server.finish()


def _alone_told(world: Consortium) -> Told:
    host = Host(world)
    host.gather((world.members[-1],))
    host.run_on(_WAITED)
    return Told.by(host)


def _impostor_believed(server: Believing) -> Vector:
    server.receive("site-5", server.trained(VICTIM) * 100)
    server.play()
    return server.finish()


def _impostor_told(world: Consortium) -> Told:
    """The host runs code of its own in a genuine TEE, with the victim's credential, before the victim comes."""
    host = Host(world)
    host.gather(world.members[:-1], automatic=False)
    host.join(Site(world, world.members[-1], measurement=b"\x11" * 48))
    host.join(Site(world, world.members[-1]))
    return Told.by(ended(host))


STATE_LIES = (
    Lie(
        "old disk",
        "after a round it restores the disk of before, and starts the aggregator anew",
        "a round is undone: contributions are gone, or privacy is paid for once and spent twice",
        "the workers remember what they cosigned; an aggregator that is offered less goes on with nothing",
        frozenset({Reason.STATE_MISSING}),
        _old_disk_believed,
        _old_disk_told,
    ),
    Lie(
        "old records under new names",
        "genuine older records of the run lie where the newest are looked for",
        "the same, past a server that looks for the newest name",
        "records are bound to the log that a quorum cosigned, and older ones are none of it",
        frozenset({Reason.STATE_ROLLBACK}),
        _old_disk_believed,
        _older_names_told,
    ),
    Lie(
        "fork",
        "it runs two aggregators on copies of one disk, and shows each to some of the sites",
        "two models of one round, each believed by those who saw it",
        "a worker cosigns for the later aggregator alone, and a round needs most of them",
        frozenset({Reason.LEDGER_FORK}),
        _fork_believed,
        _fork_told,
    ),
    Lie(
        "cohort drawn again",
        "it starts the aggregator anew until it draws the sites that the host likes",
        "the host chooses whose data the model is of",
        "the cohort follows from the run's sealed seed: every start draws the same",
        frozenset(),
        _chosen_believed,
        _redrawn_told,
    ),
    Lie(
        "a victim alone",
        "it lets nobody but one site through",
        "the model less the one before is that site's update",
        "no round opens under the plan's minimum and without most witnesses: the run says for whom it waits",
        frozenset(),
        _alone_believed,
        _alone_told,
    ),
    Lie(
        "impostor",
        "it sends a worker of its own, with other code",
        "whatever it sends counts",
        "it is not admitted: its evidence tells another measurement",
        frozenset({Reason.MEASUREMENT}),
        _impostor_believed,
        _impostor_told,
    ),
)
