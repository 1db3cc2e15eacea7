"""A worker that offers a vector in place of its own evidence is refused by a running aggregator, and told why.

Real host, TLS, door and enclave shell on loopback; the aggregator's clock, and its software chip, stand at the time of
the case. Its charter admits the vector's format under the vector's roots and policy. A vector that does not hold is
refused for the reason that ``verify`` gives offline. One that does hold was made for another session: it is the
neighbour, and is refused for exactly that. ``pytest -m vectors``; see ``test_all_vectors`` for what a case is.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coordinator.door import Address
from coordinator.enclave.__main__ import note, serve
from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.doors import Doors
from coordinator.host.config import HostConfig
from coordinator.host.limits import Limits
from softtee.chip import Chip, SoftwareRoot
from tests.attestation.from_vector import Loaded
from tests.attestation.test_all_vectors import Vector, absent, index, load, time_of
from tests.host.conftest import RunningHost, signed_order
from tests.world import NOW, WORKER_MEASUREMENT, World, policy
from trusted.attestation.appraise import Expected, appraise, verify
from trusted.attestation.device_policy import DEVICE_FORMATS, DeviceRule
from trusted.attestation.evidence import Evidence
from trusted.attestation.policy import AppraisalPolicy
from trusted.channel.federation import Federation
from trusted.channel.refusal import PeerRefused
from trusted.channel.session import Identity
from trusted.channel.states import State
from trusted.channel.worker import WorkerChannel
from trusted.documents.order import Action
from trusted.errors import AttestationError, Reason
from trusted.evidence import EvidenceProvider
from worker.dialer import Dialer, FrameStream

pytestmark = pytest.mark.vectors

MEMBER = "site-1"
ANOTHER_SESSION = Expected(b"\x5a" * 64, b"\xa5" * 32)  # not zeros: one vector is bound to those
_PATIENCE_S = 20.0

WorldAt = Callable[..., World]


def offered() -> list[tuple[Vector, dict[str, Any]]]:
    """Every case that is about evidence, and so can be offered."""
    return [(vector, case) for vector in index() if vector.is_evidence for case in vector.cases]


def every_offer() -> list[Any]:
    names = [(pair, f"{pair[0]}-{pair[0].cases.index(pair[1])}") for pair in offered()]
    return [pytest.param(pair, id=name) for pair, name in names] or absent()


def every_time() -> list[Any]:
    times = sorted({time_of(case) for _, case in offered()})
    return [pytest.param(when, id=f"{when:%Y-%m-%dT%H:%M:%S}") for when in times] or absent()


def offline(loaded: Loaded, now: datetime) -> tuple[bool, Reason]:
    """Whether the evidence holds at all, and why a verifier with no network refuses it."""
    holds = False
    try:
        verified = verify(loaded.evidence, loaded.roots, now)
        holds = True
        appraise(verified, loaded.policy, ANOTHER_SESSION, now)
    except AttestationError as error:
        return holds, error.reason
    pytest.fail("a vector that is bound to the test's own session")


def charter_for(loaded: Loaded) -> dict[str, Any]:
    """Changes that let workers in on the vector's platform, or with the vector's device; on that as offline."""
    format = loaded.evidence.format
    if format in DEVICE_FORMATS:
        return {"worker": replace(policy(WORKER_MEASUREMENT), devices={format: DeviceRule(1, 1, loaded.policy)})}
    return {"worker": AppraisalPolicy({format: loaded.policy})}


@dataclass(frozen=True)
class Replayed:
    """A worker that answers every challenge with evidence that it once saw."""

    seen: Evidence

    def evidence(self, report_data: bytes) -> Evidence:
        return self.seen

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        return ()


def provider_of(world: World, seen: Evidence) -> EvidenceProvider:
    """Offers ``seen``: as the TEE itself, or as the device of a TEE that is as it should be."""
    if seen.format in DEVICE_FORMATS:
        return replace(world.provider("worker"), gpus=lambda challenge: (seen,))
    return Replayed(seen)


@pytest.fixture(scope="module")
def world_at(software_root: SoftwareRoot) -> WorldAt:
    """Worlds at any time. The root's keys are always the same, its certificates are of that time."""
    issued: dict[datetime, tuple[SoftwareRoot, Chip]] = {}

    def make(now: datetime, *, roots: tuple[Any, ...] = (), **changes: Any) -> World:
        if now not in issued:
            keys = software_root.ark.key, software_root.ask.key
            root = SoftwareRoot.from_keys(*keys, now=now, product=software_root.product.name)
            issued[now] = root, root.issue_chip(now=now)
        root, chip = issued[now]
        return World(root, chip, charter_changes={"roots": (root.trust_root, *roots), **changes}, now=now)

    return make


class Coordinator:
    """One host for all cases; for each of them an aggregator of its own behind the door, until a signed stop order."""

    def __init__(self, host: RunningHost) -> None:
        self._host = host
        self._client = host.client()

    @contextmanager
    def aggregator(self, world: World) -> Iterator[None]:
        """The enclave's own shell in a thread, its clock at ``world.now``."""
        doors = Doors([Address.parse(self._host.ready.door)], world.plan.digest, note)
        aggregator = Aggregator(world.federation, world.identity("aggregator"), doors)
        shell = partial(serve, doors, aggregator, clock=lambda: world.now)
        thread = threading.Thread(target=shell, name="aggregator", daemon=True)
        self._host.world = world  # whose members may give orders
        thread.start()
        try:
            self._await_aggregator(world.plan.digest)
            yield
        finally:
            self._client.submit(signed_order(world, Action.STOP, plan=world.plan.digest))
            thread.join(_PATIENCE_S)
        assert not thread.is_alive()

    def _await_aggregator(self, plan: bytes) -> None:
        until = time.monotonic() + _PATIENCE_S
        while all(run.plan != plan.hex() or run.aggregator != "present" for run in self._client.runs()):
            assert time.monotonic() < until, "no aggregator came to the door"
            time.sleep(0.01)

    @contextmanager
    def stream(self, world: World) -> Iterator[FrameStream]:
        """A worker's stream to the aggregator of ``world``."""
        with Dialer(self._host.target, self._host.ca, world.plan.digest) as dialer, dialer.attach() as stream:
            yield stream

    def outcome(self, world: World) -> dict[str, Any]:
        """The first public event that says what became of a worker."""
        told = (dict(event.fields) for event in self._client.watch(world.plan.digest))
        return next(fields for fields in told if fields["event"] in ("admitted", "refused"))


@pytest.fixture(scope="module")
def coordinator(world_at: WorldAt, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    short = Path(tempfile.mkdtemp(prefix="door"))  # a Unix socket's path has at most 107 bytes
    state, charter = tmp_path_factory.mktemp("host") / "state", tmp_path_factory.mktemp("charter")
    door = Address.parse(f"unix:{short}/door.sock")
    config = HostConfig(state, "localhost:0", door, charter, limits=Limits(free_disk_bytes=1))
    host = RunningHost(config, world_at(NOW), lambda: NOW)
    yield Coordinator(host)
    host.stop()
    shutil.rmtree(short, ignore_errors=True)


def join(world: World, provider: EvidenceProvider, stream: FrameStream) -> WorkerChannel:
    """The worker's side of admission at ``world.now``, up to an open channel.

    Raises:
        PeerRefused: the aggregator says why not.
    """
    federation = Federation(world.charter, world.plan)
    channel = WorkerChannel(federation, Identity.generate(provider), world.membership(MEMBER))
    stream.send(channel.begin())
    while channel.state is not State.OPEN:
        frame = stream.receive(_PATIENCE_S)
        assert frame is not None, f"the stream ended before any answer: {stream.refusal}"
        for reply in channel.receive(frame, world.now).replies:
            stream.send(reply)
    return channel


@pytest.mark.parametrize("offer", every_offer())
def test_a_vector_is_refused_at_the_door_for_the_reason_that_it_has_offline(
    offer: tuple[Vector, dict[str, Any]], coordinator: Coordinator, world_at: WorldAt
) -> None:
    vector, case = offer
    loaded, now = load(vector, case), time_of(case)
    _, expected = offline(loaded, now)
    world = world_at(now, roots=loaded.roots, **charter_for(loaded))
    with coordinator.aggregator(world), coordinator.stream(world) as stream:
        with pytest.raises(PeerRefused) as told:
            join(world, provider_of(world, loaded.evidence), stream)
        assert told.value.peer_reason is expected
        assert stream.receive(_PATIENCE_S) is None
        assert stream.refusal is not None
        assert stream.refusal.reason is expected
        public = coordinator.outcome(world)
        assert (public["event"], public["reason"]) == ("refused", expected.code)
        assert "member" not in public


@pytest.mark.parametrize("when", every_time())
def test_at_the_time_of_every_case_a_worker_with_evidence_of_its_own_is_admitted(
    when: datetime, coordinator: Coordinator, world_at: WorldAt
) -> None:
    """So it is the vector that is refused: not the time, the documents, the software root or the way there."""
    world = world_at(when)
    with coordinator.aggregator(world), coordinator.stream(world) as stream:
        channel = join(world, world.provider("worker"), stream)
        stream.send(channel.session.send({"type": "ready", "has_initial": False}))
        public = coordinator.outcome(world)
        assert (public["event"], public["member"]) == ("admitted", MEMBER)


@pytest.mark.skipif(not index(), reason="no vendor vectors: set CLOISTER_VECTORS")
def test_vectors_that_hold_are_refused_for_their_binding_alone_and_others_never() -> None:
    seen = {(str(vector), *offline(load(vector, case), time_of(case))) for vector, case in offered()}
    good = {reason for _, holds, reason in seen if holds}
    bad = {reason for _, holds, reason in seen if not holds}
    assert good == {Reason.REPORT_DATA}
    assert bad.isdisjoint({Reason.REPORT_DATA, Reason.HOST_DATA, Reason.EVIDENCE_FORMAT})
    assert len(bad) >= 5
