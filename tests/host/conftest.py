"""A real host on loopback with TLS, real clients, and the aggregator's end of the door."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from console.client import HostClient
from coordinator.door import (
    MAX_DATA_CHUNK,
    Address,
    Announcement,
    BlobRange,
    BlobWrite,
    DoorKind,
    DoorMessage,
    DoorRole,
    Registration,
)
from coordinator.door_socket import DoorConnection, connect
from coordinator.host.config import PLAINTEXT, HostConfig
from coordinator.host.limits import Limits
from coordinator.host.server import Host, HostReady
from softtee.chip import Chip, SoftwareRoot
from tests.stores import postgres as postgres_server
from tests.stores import s3 as s3_server
from tests.world import NOW, World, envelope
from trusted.documents import order as orders
from trusted.documents.order import Action, Order, verify_order
from worker.dialer import Dialer, Patience

if TYPE_CHECKING:
    from tests.host.processes import HostProcess

PLAN = b"\x11" * 32
OTHER_PLAN = b"\x22" * 32


@pytest.fixture(scope="session")
def world(software_root: SoftwareRoot, chip: Chip) -> World:
    """One consortium for all host tests; only its charter matters here."""
    return World(software_root, chip)


def signed_order(world: World, action: Action = Action.START, **changes: Any) -> bytes:
    """An order of the first member, signed by it unless ``signed_by`` says otherwise."""
    signer = changes.pop("signed_by", world.members[0])
    order = Order(action=action, plan=PLAN, member=world.members[0], nonce=token_bytes(16), issued=NOW)
    return envelope(replace(order, **changes), orders.PAYLOAD_TYPE, [world.signing[signer]] if signer else [])


class DoorPeer:
    """The aggregator's end: both connections, as its shell opens them."""

    def __init__(self, door: str, plan: bytes, *, with_data: bool = True, token: bytes = b"") -> None:
        self.plan, self.token = plan, token or token_bytes(16)
        self.address = Address.parse(door)
        self.control = DoorConnection(connect(self.address))
        self.control.register(Registration(plan, DoorRole.CONTROL, self.token))
        self.buffer = memoryview(bytearray(MAX_DATA_CHUNK))
        if with_data:
            self.data = DoorConnection(connect(self.address))
            self.data.register(Registration(plan, DoorRole.DATA, self.token))

    def close(self) -> None:
        self.control.close()
        if hasattr(self, "data"):
            self.data.close()

    def expect(self, size: int, blob: bytes | None = None) -> bytes:
        blob = blob or token_bytes(16)
        self.control.send(DoorKind.EXPECT, 0, Announcement(blob, size).encode())
        return blob

    def event(self, **fields: Any) -> None:
        self.control.send(DoorKind.EVENT, 0, json.dumps(fields).encode())

    def next(self, kind: DoorKind) -> DoorMessage:
        """The next control message, which must be of ``kind``."""
        message = self.control.receive()
        assert message is not None
        assert message.kind is kind
        return message

    def read(self, blob: bytes, offset: int, size: int) -> bytes | None:
        self.data.send(DoorKind.READ, 0, BlobRange(blob, offset, size).encode())
        kind, got = self.data.receive_into(self.buffer)
        return bytes(self.buffer[:got]) if kind is DoorKind.DATA else None

    def write(self, blob: bytes, offset: int, data: bytes, *, last: bool) -> DoorKind:
        self.data.send(DoorKind.WRITE, 0, BlobWrite(blob, offset, last).encode(), data)
        return self.data.receive_into(self.buffer)[0]


Client = TypeVar("Client", DoorPeer, Dialer, HostClient)


class RunningHost:
    """A host in a thread of its own, so that blocking clients can be used beside it."""

    def __init__(self, config: HostConfig, world: World, clock: Callable[[], datetime]) -> None:
        self.config, self.world, self.clock = config, world, clock
        self.clients: list[Any] = []
        self.start()

    def start(self) -> None:
        started = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.stopping = asyncio.Event()
        self.failure: BaseException | None = None

        async def serve() -> None:
            host = Host(self.config, lambda data, when: verify_order(data, self.world.charter, when), self.clock)
            async with host:
                assert host.ready is not None
                self.host, self.ready = host, host.ready
                started.set()
                await self.stopping.wait()

        def run() -> None:
            try:
                with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                    runner.run(serve())
            except BaseException as error:
                self.failure = error
            finally:
                started.set()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        started.wait(20)
        if self.failure is not None:
            raise self.failure

    ready: HostReady

    @property
    def target(self) -> str:
        plain = self.config.listen.startswith(PLAINTEXT)
        return f"{PLAINTEXT}127.0.0.1:{self.ready.port}" if plain else f"localhost:{self.ready.port}"

    @property
    def ca(self) -> bytes:
        assert self.ready.ca_pem is not None
        return self.ready.ca_pem.read_bytes()

    def door(self, plan: bytes = PLAN, **options: Any) -> DoorPeer:
        return self._own(DoorPeer(self.ready.door, plan, **options))

    def dialer(self, plan: bytes = PLAN, **options: Any) -> Dialer:
        ca = None if self.ready.ca_pem is None else self.ca
        return self._own(Dialer(self.target, ca, plan, **({"patience": Patience(3, 0.05)} | options)))

    def client(self, **options: Any) -> HostClient:
        return self._own(HostClient(self.target, self.ca, **options))

    def _own(self, client: Client) -> Client:
        self.clients.append(client)
        return client

    def metric(self, name: str, **labels: str) -> float:
        return self.host.metrics.registry.get_sample_value(name, labels) or 0.0

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        self.clients.clear()
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join(20)
        assert self.failure is None


@pytest.fixture
def make_host(world: World, tmp_path: Path) -> Iterator[Callable[..., RunningHost]]:
    """Start hosts on one state folder, perhaps with a store of collateral or a blob port; limits by keyword."""
    hosts: list[RunningHost] = []
    short = Path(tempfile.mkdtemp(prefix="door"))  # a Unix socket's path has at most 107 bytes

    def make(
        collateral_store: Path | None = None,
        *,
        listen: str = "localhost:0",
        blob_listen: str | None = None,
        blob_public_port: int | None = None,
        **limits: Any,
    ) -> RunningHost:
        door = Address.parse(f"unix:{short}/door.sock")
        quick = {"free_disk_bytes": 1} | limits
        config = HostConfig(tmp_path / "state", listen, door, tmp_path / "charter", limits=Limits(**quick))
        config = replace(config, collateral_store=collateral_store)
        config = replace(config, blob_listen=blob_listen, blob_public_port=blob_public_port)
        hosts.append(RunningHost(config, world, lambda: NOW))
        return hosts[-1]

    yield make
    for host in hosts:
        if host.thread.is_alive():
            host.stop()
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def host(make_host: Callable[..., RunningHost]) -> RunningHost:
    """A host with the default limits."""
    return make_host()


@pytest.fixture
def blob_host(make_host: Callable[..., RunningHost]) -> RunningHost:
    """A host with the default limits, and a port for blobs."""
    return make_host(blob_listen="localhost:0")


@pytest.fixture(params=["tls", "plain"])
def either(request: pytest.FixtureRequest, make_host: Callable[..., RunningHost]) -> RunningHost:
    """A host with a port for blobs, with TLS and without."""
    address = "localhost:0" if request.param == "tls" else "http://127.0.0.1:0"
    return make_host(listen=address, blob_listen=address)


@pytest.fixture
def no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a peer does, nothing in a host ends in an error that nobody expected; to be asked for before a host."""
    gc.collect()  # asyncio tells of a task's error when the task is gone: not of one of an earlier test's
    yield
    gc.collect()
    records = caplog.get_records("call") + caplog.get_records("teardown")
    errors = [record.getMessage() for record in records if record.levelno >= logging.ERROR]
    # A door whose peer hangs up just when its host stops is no matter of who asks for this.
    assert [error for error in errors if "door: the peer hung up" not in error] == []


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    """A real PostgreSQL server; a visible skip where none is installed."""
    programs = postgres_server.installed()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    with postgres_server.running(programs) as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.Server]:
    """A real server that speaks S3; a visible skip where it is not installed."""
    if not s3_server.PROGRAM.exists():
        pytest.skip("no S3 server is installed: make .venv/s3/.locked")
    with s3_server.running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def start_process(world: World, tmp_path: Path) -> Iterator[Callable[..., HostProcess]]:
    """Makes a host process on one folder, which is gone afterwards."""
    from tests.host.processes import HostProcess, SmallDisk

    made: list[HostProcess | SmallDisk] = []

    def make(disk_bytes: int = 0, **settings: Any) -> HostProcess:
        folder = tmp_path / "host"
        disk = SmallDisk(folder, disk_bytes) if disk_bytes else None
        if disk is not None:
            made.append(disk)
        host = HostProcess(folder, world, disk, **settings)
        made.append(host)
        return host.start()

    yield make
    for thing in reversed(made):
        thing.close()
