"""A whole run over two host processes on the same stores: three workers, and one host is killed in the middle."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes
from typing import Any

import numpy as np
import pytest

from console.client import HostClient
from coordinator.door import Address
from coordinator.enclave.__main__ import note, serve
from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.doors import Doors
from coordinator.enclave.run import RunState
from coordinator.enclave.workshop import Workshop
from coordinator.host.places import BlobPlace, Database
from softtee.chip import Chip, SoftwareRoot
from tests.stores import postgres as postgres_server
from tests.world import World, envelope
from trusted.channel.results import aggregator_subject
from trusted.documents import order as orders
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.documents.order import Action, Order
from trusted.documents.plan import initial_digest
from trusted.documents.terms import Cohort, Deadlines
from trusted.exchange import Exchanged
from trusted.release import release_name, verify_release
from worker.__main__ import _until_closed
from worker.collateral import HostCollateral
from worker.contribution import Contributor
from worker.coordinators import Coordinators
from worker.participant import Closed
from worker.session_loop import Site
from worker.start import Prepared

pytestmark = pytest.mark.slow

MEMBERS = ("site-1", "site-2", "site-3")
ROUNDS, KILLED_IN = 3, 2
LAYOUT = Layout((TensorSpec("weight", Dtype.FLOAT32, (1500, 1500)),))  # 9 MB: more than one part of an S3 upload
INITIAL = np.linspace(-1, 1, LAYOUT.elements, dtype="<f4")
_PATIENCE_S = 90.0


@pytest.fixture
def world(software_root: SoftwareRoot, chip: Chip) -> World:
    changes = {
        "layout": LAYOUT,
        "initial_sha256": initial_digest(LAYOUT, INITIAL.tobytes()),
        "rounds": ROUNDS,
        "cohort": Cohort(MEMBERS, 3, 3),
        "deadlines": Deadlines(round_s=600, lease_s=120, reattest_s=60),
    }
    return World(software_root, chip, members=MEMBERS, plan_changes=changes, now=datetime.now(UTC))


@dataclass
class HostProcess:
    """One replica as a process of its own."""

    folder: Path
    door: str
    config: dict[str, Any]
    process: subprocess.Popen[str] | None = None
    port: int = 0

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "host.json"
        path.write_text(json.dumps({"state": "state", "listen": "localhost:0", "door": self.door} | self.config))
        command = [sys.executable, "-m", "coordinator.host", str(path)]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        said = dict(word.split("=", 1) for word in self.process.stdout.readline().split() if "=" in word)
        assert said, (self.folder / "log").read_text()
        self.port = int(said["port"])

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def target(self) -> str:
        return f"localhost:{self.port}"

    @property
    def ca(self) -> bytes:
        return (self.folder / "state" / "tls" / "ca.pem").read_bytes()

    def client(self) -> HostClient:
        return HostClient(self.target, self.ca)


@dataclass
class Trained:
    """What a trainer gives back."""

    delta: np.ndarray
    num_examples: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Formula:
    """A trainer whose result depends on member, round and model alone; ``at_round`` is called while it trains."""

    member: str
    at_round: Callable[[int], None]

    def train(self, model: np.ndarray, round_number: int, *, timeout_s: float) -> Trained:
        self.at_round(round_number)
        index = MEMBERS.index(self.member)
        return Trained((0.1 * (1 + index) - 0.05 * model).astype("<f4"), 10 * (1 + index))


@dataclass
class Federation:
    """The hosts, the aggregator and its three workers."""

    world: World
    hosts: list[HostProcess]
    stack: ExitStack
    closed: dict[str, Closed] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def run(self, at_round: Callable[[int], None]) -> None:
        """Start everybody, give the order at the last host, and wait for the end."""
        world = self.world
        doors = Doors([Address.parse(host.door) for host in self.hosts], world.plan.digest, note)
        workshop = Workshop(doors.post)
        self.stack.callback(workshop.close)
        self.aggregator = Aggregator(world.federation, world.identity("aggregator"), doors, workshop)
        threads = [threading.Thread(target=serve, args=(doors, self.aggregator), daemon=True)]
        threads += [threading.Thread(target=self._work, args=(name, at_round), daemon=True) for name in MEMBERS]
        threads[0].start()
        for host in self.hosts:  # else a worker finds no aggregator at its first host, and goes on to the next
            self._await_aggregator(host)
        for thread in threads[1:]:
            thread.start()
        with self.hosts[-1].client() as client:
            client.submit(self.order())
        for thread in threads:
            thread.join(_PATIENCE_S)
            assert not thread.is_alive()

    def _await_aggregator(self, host: HostProcess) -> None:
        until = time.monotonic() + _PATIENCE_S
        with host.client() as client:
            while not any(run.aggregator == "present" for run in client.runs()):
                assert time.monotonic() < until, "no aggregator came to the door"
                time.sleep(0.01)

    def order(self) -> bytes:
        member, issued = MEMBERS[0], datetime.now(UTC).replace(microsecond=0)
        document = Order(
            action=Action.START, plan=self.world.plan.digest, member=member, nonce=token_bytes(16), issued=issued
        )
        return envelope(document, orders.PAYLOAD_TYPE, [self.world.signing[member]])

    def _work(self, member: str, at_round: Callable[[int], None]) -> None:
        """A worker's own shell; the first two sites begin at the first host, the third at the last."""
        world, first = self.world, MEMBERS.index(member) // 2
        targets = [host.target for host in self.hosts[first:] + self.hosts[:first]]
        cas = b"".join(host.ca for host in self.hosts)
        with Coordinators(targets, cas, world.plan.digest) as coordinators:
            identity = world.identity("worker")
            contributor = Contributor(
                exchanged=Exchanged.of(world.plan),
                transport=coordinators,
                trainer=Formula(member, at_round),
                signing_key=identity.signing_key,
                allowed_metrics=frozenset(),
                train_timeout_s=60,
            )
            initial = INITIAL if member == MEMBERS[0] else None
            participant, membership = world.participant(member), world.membership(member)
            site = Site(
                participant=participant,
                identity=identity,
                membership=membership,
                contributor=contributor,
                initial=initial,
                aggregator=aggregator_subject(world.plan.digest),
                reattest_s=60,
                note=self._note,
            )
            collateral = HostCollateral(lambda: coordinators.channel, "", (), self._note)
            prepared = Prepared(world.federation, None, membership, None, initial)  # type: ignore[arg-type]
            self.closed[member] = _until_closed(site, prepared, coordinators, collateral)

    def _note(self, event: str, **fields: object) -> None:
        self.notes.append(event)

    def model(self, host: HostProcess) -> bytes:
        """The digest of the released model, as its verified release says."""
        with host.client() as client:
            plan = self.world.plan.digest
            stored = b"".join(client.get_blob(plan, release_name(plan)))
            release = verify_release(stored, self.world.federation, datetime.now(UTC)).release
            assert [set(members) for _, members in release.contributions] == [set(MEMBERS)] * ROUNDS
            assert (
                sum(map(len, client.get_blob(plan, release.blob))) == release.header(self.world.federation).sealed_bytes
            )
        return release.model_sha256

    def events(self, host: HostProcess) -> list[dict[str, Any]]:
        """Every event, whose numbers the client checks, up to the end of the run."""
        found: list[dict[str, Any]] = []
        with host.client() as client:
            for event in client.watch(self.world.plan.digest):
                found.append(dict(event.fields))
                if event.fields["event"] == "run-ended":
                    return found
        raise AssertionError("the watch ended")


@contextmanager
def federation(world: World, folder: Path, configs: list[dict[str, Any]]) -> Iterator[Federation]:
    doors = Path(tempfile.mkdtemp(prefix="door"))  # a Unix socket's path has at most 107 bytes
    folder.mkdir()
    (folder / "charter").write_bytes(world.charter.envelope)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, doors, ignore_errors=True)
        hosts: list[HostProcess] = []
        for number, config in enumerate(configs):
            charter = {"charter": str(folder / "charter"), "limits": {"free_disk_bytes": 1}}
            host = HostProcess(folder / str(number), f"unix:{doors}/{number}.sock", config | charter)
            host.start()
            stack.callback(host.kill)
            hosts.append(host)
        yield Federation(world, hosts, stack)


def shared(database: Database, place: BlobPlace) -> dict[str, Any]:
    """What both replicas are configured with."""
    blobs = {"url": place.url, "endpoint": place.endpoint, "region": place.region, "credentials": place.credentials}
    return {
        "database": {"url": database.url, "password_file": str(database.password_file)},
        "blobs": {key: str(value) for key, value in blobs.items() if value is not None},
    }


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_run_over_two_replicas_survives_the_death_of_one_and_ends_with_the_same_model(
    kind: str, world: World, tmp_path: Path, postgres: postgres_server.Server, request: pytest.FixtureRequest
) -> None:
    with federation(world, tmp_path / "alone", [{}]) as alone:
        alone.run(lambda number: None)
        expected = alone.model(alone.hosts[0])
    if kind == "folder":
        (tmp_path / "blobs").mkdir()
        place = BlobPlace(f"folder:{tmp_path / 'blobs'}")
    else:
        place = request.getfixturevalue("s3").new_place()
    config = shared(postgres.new_database(), place)
    everybody = threading.Barrier(len(MEMBERS))

    with federation(world, tmp_path / "together", [config, config]) as together:
        first, second = together.hosts

        def kill_in_the_middle(number: int) -> None:
            if number == KILLED_IN and everybody.wait(_PATIENCE_S) == 0:
                first.kill()

        together.run(kill_in_the_middle)
        assert together.aggregator.state is RunState.FINISHED
        assert {(closed.outcome, closed.rounds) for closed in together.closed.values()} == {("finished", ROUNDS)}
        assert together.notes.count("admitted") == len(MEMBERS) + 2  # those who were at the first host came again
        assert together.model(second) == expected
        told = together.events(second)
        first.start()
        assert together.events(first) == told
        assert together.model(first) == expected
    count = Counter((event["event"], event.get("outcome")) for event in told)
    assert count["contribution", "counted"] == ROUNDS * len(MEMBERS)
    assert count["run-started", None] == count["released", None] == count["run-ended", "finished"] == 1
    assert [event["round"] for event in told if event["event"] == "round-opened"] == [1, 2, 3]
    assert [event["outcome"] for event in told if event["event"] == "round-committed"] == ["1", "2", "3"]
    assert count["order-honoured", "start"] == 1
    assert count["admitted", None] == len(MEMBERS) + 2
