"""Plaintext behind a proxy that has the TLS: on this machine's loopback, and nowhere else."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from secrets import token_bytes

import pytest

from coordinator.door import Address
from coordinator.host.config import HostConfig
from coordinator.host.limits import Limits
from tests.host.conftest import PLAN, RunningHost
from tests.host.test_blobs import wait_for
from tests.world import NOW, World
from trusted.errors import ProtocolError, Reason
from worker.dialer import Dialer, Patience
from worker.grpc_channel import loopback_target

CONFIG = {"state": "state", "door": "unix:/tmp/x", "charter": "charter.json"}
ELSEWHERE = ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "localhost.example:1", "127.0.0.1.example:1", "localhost", ":1", ""]


def load(folder: Path, listen: str) -> HostConfig:
    path = folder / "host.json"
    path.write_text(json.dumps(CONFIG | {"listen": listen}))
    return HostConfig.load(path)


@pytest.mark.parametrize("address", ["127.0.0.1:7000", "[::1]:7000", "localhost:7000"])
def test_plaintext_is_listened_to_and_dialled_on_loopback(tmp_path: Path, address: str) -> None:
    assert load(tmp_path, f"http://{address}").listen == f"http://{address}"
    assert loopback_target(f"http://{address}") == address


@pytest.mark.parametrize("address", ELSEWHERE)
def test_plaintext_is_listened_to_and_dialled_nowhere_else(tmp_path: Path, address: str) -> None:
    for call in (lambda: load(tmp_path, f"http://{address}"), lambda: loopback_target(f"http://{address}")):
        with pytest.raises(ProtocolError) as caught:
            call()
        assert caught.value.reason is Reason.MALFORMED


@pytest.fixture
def plain(world: World, tmp_path: Path) -> Iterator[RunningHost]:
    short = Path(tempfile.mkdtemp(prefix="door"))
    door = Address.parse(f"unix:{short}/door.sock")
    config = HostConfig(tmp_path / "state", "localhost:0", door, tmp_path / "charter", limits=Limits(free_disk_bytes=1))
    host = RunningHost(replace(config, listen="http://127.0.0.1:0"), world, lambda: NOW)
    yield host
    host.stop()
    shutil.rmtree(short)


def test_a_blob_goes_up_and_down_in_plaintext_and_a_dialler_of_tls_is_not_answered(plain: RunningHost) -> None:
    peer, data = plain.door(), token_bytes(5 << 20)
    blob, address = peer.expect(len(data)), f"127.0.0.1:{plain.ready.port}"
    patience = Patience(1, 0.05)
    with Dialer(f"http://{address}", None, PLAN, patience=patience) as dialer:
        wait_for(dialer, blob)
        dialer.put_blob(blob, data)
        assert b"".join(dialer.get_blob(blob)) == data
    with Dialer(address, None, PLAN, patience=patience) as dialer, pytest.raises(ProtocolError) as caught:
        list(dialer.get_blob(blob))
    assert caught.value.reason is Reason.UNREACHABLE
