"""A host's state copied while it runs, and put back: an older state is served on, and nothing fails over it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_bytes
from typing import Any

import pytest
from typer.testing import CliRunner

from console.commands.coordinator import app
from coordinator.door import DoorKind
from coordinator.host.backup import back_up
from protos.generate import ROOT
from tests.host.conftest import PLAN, DoorPeer
from tests.host.processes import HostProcess
from tests.host.test_blobs import MIB, refused, wait_for
from trusted.errors import ProtocolError, Reason, RunError
from worker.dialer import Dialer

Start = Callable[..., HostProcess]
pytestmark = pytest.mark.slow


def tell(peer: DoorPeer, number: int) -> None:
    peer.control.send(DoorKind.EVENT, number, json.dumps({"event": "round-opened", "round": number}).encode())
    while peer.control.receive().kind is not DoorKind.RECORDED:  # type: ignore[union-attr]
        pass


def upload(peer: DoorPeer, dialer: Dialer, data: bytes, blob: bytes | None = None) -> bytes:
    blob = peer.expect(len(data), blob)
    wait_for(dialer, blob)
    dialer.put_blob(blob, data)
    return blob


def put_back(host: HostProcess, copy: Path) -> None:
    """As docs/operations.md says."""
    host.state.rename(host.state.with_name("aside"))
    shutil.copytree(copy, host.state)


def test_a_run_goes_on_from_an_older_copy_that_was_made_while_the_host_ran(
    start_process: Start, tmp_path: Path
) -> None:
    host = start_process()
    peer, dialer = host.door(), host.dialer()
    early, late = token_bytes(2 * MIB), token_bytes(MIB)
    before = upload(peer, dialer, early)
    assert peer.write(b"m" * 16, 0, early, last=True) is DoorKind.STORED
    tell(peer, 1)
    ca, token = host.ca, peer.token
    done = CliRunner().invoke(app, ["backup", "--state", str(host.state), "--to", str(tmp_path / "copy"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["data"]["blobs"] == 2
    after = upload(peer, dialer, late)
    for number in (2, 3):
        tell(peer, number)
    peer.control.send(DoorKind.DISCARD, 0, before)
    assert host.end() == 0
    put_back(host, tmp_path / "copy")

    again = host.start()
    assert again.ca == ca
    peer, dialer = again.door(token=token), again.dialer()
    assert b"".join(dialer.get_blob(before)) == early
    assert b"".join(dialer.get_blob(b"m" * 16)) == early
    assert refused(lambda: list(dialer.get_blob(after))) is Reason.BLOB_UNKNOWN
    assert upload(peer, dialer, late, after) == after  # announced anew, sent anew
    assert peer.read(after, 0, 10) == late[:10]
    ahead = again.client().watch(PLAN, 100)  # somebody who saw more than this host remembers
    missed: list[Reason] = []
    ahead_of_it = threading.Thread(target=lambda: missed.append(refused(lambda: next(ahead))))
    ahead_of_it.start()
    time.sleep(0.5)
    for number in (2, 3, 4):
        tell(peer, number)
    watched = again.client().watch(PLAN)
    rounds = []
    while len(rounds) < 4:
        event = next(watched)
        if event.fields["event"] == "round-opened":
            rounds.append(event.fields["round"])
    assert rounds == [1, 2, 3, 4]
    ahead_of_it.join(10)
    assert missed == [Reason.MALFORMED]  # it is told what comes next, and says that the host lost events
    assert again.end() == 0
    assert not [line for line in host.log() if line["event"] == "rpc-failed"]


def test_a_copy_made_amid_uploads_and_discards_holds_no_byte_of_another_blob(
    start_process: Start, tmp_path: Path
) -> None:
    """Files of discarded blobs are used again, in place: a copy that followed one would mix two blobs."""
    host = start_process()
    peer, dialer, over = host.door(), host.dialer(), threading.Event()
    held: dict[bytes, bytes] = {}

    def churn() -> None:
        while not over.is_set():
            data = bytes([random.randrange(256)]) * (MIB + random.randrange(MIB))
            blob = upload(peer, dialer, data)
            held[blob] = data
            if len(held) % 12 >= 6:
                for old in list(held)[-6:-1]:
                    peer.control.send(DoorKind.DISCARD, 0, old)

    thread = threading.Thread(target=churn)
    thread.start()
    copies = [tmp_path / f"copy-{number}" for number in range(6)]
    for copy in copies:
        time.sleep(0.2)
        back_up(host.state, copy)
    over.set()
    thread.join()
    host.end()
    for copy in copies:
        shutil.rmtree(host.state)
        shutil.copytree(copy, host.state)
        dialer = host.start().dialer()
        for file in (copy / "blobs").glob("*/*"):
            blob = bytes.fromhex(file.name)
            if dialer._blobs.Stat(name(blob)).received_bytes == len(held[blob]):
                assert b"".join(dialer.get_blob(blob)) == held[blob]
        host.end()


def name(blob: bytes) -> object:
    from tests.host.test_blobs import name_of

    return name_of(blob)


def test_a_backup_is_whole_or_not_there(start_process: Start, tmp_path: Path) -> None:
    host = start_process(disk_bytes=16 * MIB)
    assert host.disk is not None
    upload(host.door(), host.dialer(), token_bytes(6 * MIB))
    target = host.disk.folder / "copy"
    ballast = host.disk.folder / "ballast"
    ballast.write_bytes(bytes(6 * MIB))
    code = "from console.commands.coordinator import app; app()"  # SQLite looks the path up: it has to be inside
    command = [*host.disk.inside, sys.executable, "-P", "-c", code, "backup", "--json"]
    command += ["--state", str(host.folder / "state"), "--to", str(host.folder / "copy")]

    def run() -> dict[str, Any]:
        done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60)
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    assert "RUN-720" in str(run()["error"])
    assert not target.exists()
    assert not target.with_name("copy.draft").exists()
    ballast.unlink()
    assert run()["data"]["bytes"] == 6 * MIB
    assert sum(file.stat().st_size for file in (target / "blobs").glob("*/*")) == 6 * MIB
    for state, to in ((host.state, target), (tmp_path / "none", tmp_path / "new")):
        with pytest.raises(RunError) as caught:
            back_up(state, to)
        assert caught.value.reason is Reason.MISSING_FIELD


# ends


def test_a_host_that_is_told_to_stop_lets_transfers_end_and_sends_workers_away(start_process: Start) -> None:
    host = start_process()
    peer, dialer, data = host.door(), host.dialer(), token_bytes(4 * MIB)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)
    stream = host.dialer().attach()
    peer.next(DoorKind.ATTACHED)
    watch = host.client().watch(PLAN)
    next(watch)
    sent = threading.Event()

    def slowly() -> object:
        from protos.v1 import cloister_pb2

        yield cloister_pb2.PutChunk(name=name(blob), data=data[:MIB])
        sent.set()
        time.sleep(1.5)
        yield cloister_pb2.PutChunk(data=data[MIB:])

    call = dialer._blobs.Put.future(slowly())
    assert sent.wait(10)
    wait_for(dialer, blob, MIB)
    assert host.process is not None
    host.process.send_signal(signal.SIGTERM)
    assert stream.receive(timeout=1.0) is None  # at once, not when the upload is through
    assert stream.refusal is not None
    assert stream.refusal.reason is Reason.UNREACHABLE
    with pytest.raises(ProtocolError) as caught:
        next(watch)
    assert caught.value.reason is Reason.UNREACHABLE
    assert call.result(timeout=10).received_bytes == len(data)
    assert host.process.wait(10) == 0
    host.clean()
    assert b"".join(host.start().dialer().get_blob(blob)) == data


def test_a_transfer_that_does_not_end_holds_a_stop_up_for_so_long_and_goes_on_afterwards(start_process: Start) -> None:
    from protos.v1 import cloister_pb2

    host = start_process(drain_s=1.0)
    peer, dialer, data = host.door(), host.dialer(), token_bytes(2 * MIB)
    blob, never = peer.expect(len(data)), threading.Event()
    wait_for(dialer, blob)

    def half() -> object:
        yield cloister_pb2.PutChunk(name=name(blob), data=data[:MIB])
        never.wait(30)

    call = dialer._blobs.Put.future(half())
    wait_for(dialer, blob, MIB)
    begun = time.monotonic()
    assert host.end() == 0
    assert 0.9 < time.monotonic() - begun < 9
    never.set()
    assert call.exception(timeout=5) is not None
    sent: list[int] = []
    host.start().dialer().put_blob(blob, data, sent.append)
    assert sent[0] == MIB


@pytest.mark.parametrize("seed", range(4))
def test_a_host_killed_at_any_instant_has_lost_nothing_that_it_answered(start_process: Start, seed: int) -> None:
    host, chance = start_process(), random.Random(seed)
    answered: dict[bytes, bytes] = {}
    recorded = 0
    for _ in range(3):
        peer, dialer = host.door(token=b"t" * 16), host.dialer()
        timer = threading.Timer(chance.uniform(0.1, 1.2), lambda: host.process and host.process.kill())
        timer.start()
        try:
            while True:
                data = chance.randbytes(chance.randrange(1, 300_000))
                blob = upload(peer, dialer, data)
                answered[blob] = data
                peer.control.send(
                    DoorKind.EVENT, recorded + 1, json.dumps({"event": "attested", "round": recorded + 1}).encode()
                )
                while (message := peer.control.receive()) is not None and message.kind is not DoorKind.RECORDED:
                    pass
                if message is None:
                    break
                recorded += 1
        except (OSError, ProtocolError, AssertionError):
            pass
        timer.join()
        assert host.process is not None
        host.process.wait(10)
        host.clean()
        host.start()
        dialer = host.dialer()
        for blob, data in answered.items():
            assert b"".join(dialer.get_blob(blob)) == data
    watched = host.client().watch(PLAN)
    rounds: list[int] = []
    while len(rounds) < recorded:
        event = next(watched)
        if event.fields["event"] == "attested":
            rounds.append(event.fields["round"])
    assert rounds == list(range(1, recorded + 1))
    assert answered
