"""A measured enclave of the software TEE fetches its member's key from a broker, over TLS: real processes."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from broker.records import Event
from softtee.launcher import Launch, launch
from softtee.measure import Interpreter, measured
from softtee.program import REPOSITORY, Program
from softtee.surroundings import enclave_uid
from tests.broker.test_service import serving
from tests.broker.test_store import KEY, granted
from tests.keys.holdings import KEY_ID, MEMBER
from tests.world import World, policy
from trusted.documents.grant import commitment
from trusted.evidence.boot import Role
from worker.key_client import BrokerAddress

_INSTALLED = (
    "cryptography",
    "cffi",
    "_cffi_backend",
    "rfc8785",
    "numpy",
    "securesystemslib",
    "grpc",
    "google.protobuf",
)
_CODE = ("trusted", "worker", "protos")


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    """The running interpreter with the few packages that this needs, so that measuring it takes a second."""
    site = tmp_path / "site-packages"
    site.mkdir()
    for name in _INSTALLED:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            pytest.fail(f"{name} is not installed")
        origin, target = Path(spec.origin), site.joinpath(*name.split("."))
        if origin.name == "__init__.py":
            shutil.copytree(origin.parent, target, ignore=shutil.ignore_patterns("__pycache__", "tests"))
            if (libraries := origin.parent.with_name(f"{name}.libs")).is_dir():
                shutil.copytree(libraries, site / libraries.name)
        else:
            shutil.copy2(origin, site / origin.name)
    shutil.copy2(Path(importlib.util.find_spec("typing_extensions").origin), site)
    return replace(Interpreter.running(), site=site)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The asking program, at a place where a test may change it."""
    root = tmp_path / "program"
    for name in _CODE:
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "asking").mkdir()
    (root / "asking" / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("asking.py"), root / "asking" / "main.py")
    return Program(root, (*_CODE, "asking"), "asking.main:main")


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "constraints.txt"
    path.write_text("rfc8785==0.1.4\n")
    return path


@pytest.fixture
def federation(software_root, chip, program, interpreter, lock) -> World:
    """One whose charter admits exactly this program as a worker."""
    image = measured(Role.WORKER, program=program, lock=lock, interpreter=interpreter)
    return World(software_root, chip, charter_changes={"worker": policy(image.measurement.value)})


@pytest.fixture
def ask(federation, program, interpreter, lock, tmp_path) -> Callable[[BrokerAddress], str]:
    """Starts the enclave, waits for its end, and gives what it said last."""
    world = federation
    world.chip.save(tmp_path / "chip")
    membership = world.membership(MEMBER)
    key_file = tmp_path / "worker.key"
    key_file.write_bytes(membership.worker_key.private_bytes_raw())
    if os.geteuid() == 0:
        os.chown(key_file, enclave_uid(), -1)

    def asked(broker: BrokerAddress) -> str:
        enclave = launch(
            Launch(
                role=Role.WORKER,
                charter=world.charter.envelope,
                plan=world.plan.envelope,
                charter_digest=world.charter.digest,
                plan_digest=world.plan.digest,
                chip_directory=tmp_path / "chip",
                log=tmp_path / "enclave.log",
                options={
                    "broker": broker.target,
                    "ca_pem": (broker.ca_pem or b"").decode(),
                    "credential": membership.credential.decode(),
                    "worker_key": str(key_file),
                    "key_id": KEY_ID.hex(),
                    "member": MEMBER,
                },
                readable=(key_file,),
                network=True,
                program=program,
                interpreter=interpreter,
                lock=lock,
            )
        )
        try:
            enclave.wait(120)
        finally:
            enclave.terminate()
        log = (tmp_path / "enclave.log").read_text()
        assert KEY.secret.hex() not in log
        return log.strip().splitlines()[-1]

    return asked


@pytest.mark.slow
def test_the_measured_program_gets_its_key_and_a_changed_one_does_not(store, store_key, federation, ask, program):
    granted(store, federation)
    with serving(store, store_key) as broker:
        assert ask(broker) == f"granted {commitment(KEY_ID, KEY.secret).hex()}"
        with (program.root / "asking" / "main.py").open("a") as source:
            source.write("\n# another program\n")
        assert ask(broker) == "refused the other side says ATT-214 MEASUREMENT"
    assert [entry.event for entry in store.log()][-2:] == [Event.RELEASED, Event.REFUSED]
    assert store.grants()[0].remaining == 1
