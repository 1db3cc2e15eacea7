"""The search finds what is planted on the disk, in memory, in traffic, in a log: else its silence would say nothing."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from console.documents import present
from coordinator.door import Address, Announcement, DoorKind, DoorRole, Registration
from coordinator.door_socket import DoorConnection, connect
from tests.canary.conftest import Canaries, app_words
from tests.canary.needles import Pattern, number_needle, secret_needle, text_needle, vector_needle
from tests.canary.observing import Place, Sightings, scrape
from tests.canary.search import Found, Search, names
from tests.canary.sites import NAMES, initial_model
from trusted.documents import order
from trusted.documents.dsse import new_envelope, sign
from trusted.documents.order import Action, Order
from trusted.errors import ProtocolError
from worker.dialer import Dialer

pytestmark = pytest.mark.slow

_QUERY, _FILE, _NONCE, _LOGGED, _VARIABLE = "query", "file", "nonce", "logged", "variable"
_UPDATE, _FRAME = "unsealed update", "frame"
_PLAN = "plan digest"  # public; a worker says it in gRPC metadata, and the host in its log


@dataclass(frozen=True, slots=True)
class Planted:
    """Where the search found what was planted."""

    found: dict[Place, set[str]]
    dropped_packets: int

    def found_in(self, place: Place) -> set[str]:
        """Which plants the search finds there."""
        return self.found[place]


@pytest.fixture(scope="module")
def planted(canaries: Canaries, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Plant each value where it must be found; the host is the one of the run, which is over."""
    file, query, logged, frame = (f"plant-{secrets.token_hex(10)}" for _ in range(4))
    nonce, plan, model = secrets.token_bytes(16), secrets.token_bytes(32), initial_model()
    patterns = [
        *text_needle(_FILE, file),
        *text_needle(_QUERY, query),
        *text_needle(_LOGGED, logged),
        *text_needle(_VARIABLE, canaries.control),
        *text_needle(_FRAME, frame),
        Pattern(_PLAN, "text", plan.hex().encode()),
        *secret_needle(_NONCE, nonce),
        *vector_needle(_UPDATE, model[0].tolist()),
    ]
    federation, sightings = canaries.federation, Sightings()
    (federation.folder.host_state / f"{file}.txt").write_text(file)
    scrape(federation.metrics_port, f"?{query}")
    _order_with_nonce(canaries, nonce)
    logs = tmp_path_factory.mktemp("stand-in")
    _careless_process(logs / "stand-in.log", logged)
    with _careless_worker(canaries, plan, model.tobytes(), frame.encode()):
        sightings.look_at_host(federation, "with plants")
        sightings.look_at_wires(federation, canaries.capture, "with plants")
    sightings.look_at_enclave_logs(logs)
    search = Search(patterns)
    found = {place: names(search.find(content)) for place, content in sightings.by_place.items()}
    return Planted(found, sightings.dropped_packets)


def _order_with_nonce(canaries: Canaries, nonce: bytes) -> None:
    """A member's order whose nonce is the plant: a host stores it, and SQLite keeps the page in memory."""
    federation = canaries.federation
    plan = federation.papers.plan.digest
    document = Order(action=Action.STOP, plan=plan, member=NAMES[0], nonce=nonce, issued=present())
    envelope = sign(new_envelope(document.encode(), order.PAYLOAD_TYPE), federation.folder.signer(NAMES[0]))
    with federation.connect() as client:
        client.submit(envelope.encode())
        with pytest.raises(ProtocolError):
            client.submit(nonce)  # no order at all: refused, but it went over the wire as it is


@contextmanager
def _careless_worker(canaries: Canaries, plan: bytes, update: bytes, frame: bytes) -> Iterator[None]:
    """A worker that forgot to seal, and an aggregator that lets it: what the canary test exists to notice."""
    federation, blob = canaries.federation, secrets.token_bytes(16)
    address = Address.parse(f"unix:{federation.folder.path / 'proxy' / 'door' / 'door.sock'}")
    with DoorConnection(connect(address)) as control:
        control.register(Registration(plan, DoorRole.CONTROL, secrets.token_bytes(16)))
        control.send(DoorKind.EXPECT, 0, Announcement(blob, len(update)).encode())
        control.send(DoorKind.EVENT, 0, json.dumps({"event": "stand-in", "text": update[:64].hex()}).encode())
        with Dialer(federation.address, federation.ca.read_bytes(), plan) as dialer, dialer.attach() as frames:
            frames.send(frame)
            dialer.put_blob(blob, update)
            while (message := control.receive()) is not None and message.kind is not DoorKind.FRAME:
                pass
            yield


def _careless_process(log: Path, text: str) -> None:
    code = "import sys; print('round 1:', sys.stdin.read(), file=sys.stderr)"
    with log.open("wb") as output:
        subprocess.run([sys.executable, "-c", code], input=text.encode(), stderr=output, check=True)


def test_a_file_in_the_hosts_folder_is_found_by_content_and_by_name(planted: Planted) -> None:
    assert _FILE in planted.found_in(Place.HOST_DISK)
    assert planted.found_in(Place.FILE_NAMES) == {_FILE, _PLAN}


def test_an_order_is_found_in_the_hosts_database_and_memory(planted: Planted) -> None:
    assert _NONCE in planted.found_in(Place.HOST_DISK)
    assert _NONCE in planted.found_in(Place.HOST_MEMORY)


def test_an_unsealed_update_is_found_on_disk_in_memory_and_below_tls(planted: Planted) -> None:
    assert _UPDATE in planted.found_in(Place.HOST_DISK)
    assert _UPDATE in planted.found_in(Place.HOST_MEMORY)
    assert planted.found_in(Place.GRPC) == {_UPDATE, _FRAME, _PLAN, _NONCE}


def test_what_passes_the_door_is_found(planted: Planted) -> None:
    assert planted.found_in(Place.DOOR) == {_UPDATE, _FRAME}


def test_plaintext_is_found_on_loopback_and_tls_hides_the_rest(planted: Planted, canaries: Canaries) -> None:
    if canaries.capture is None:
        pytest.skip("capturing loopback needs CAP_NET_RAW")
    assert planted.dropped_packets == 0
    assert planted.found_in(Place.LOOPBACK) == {_QUERY}


def test_a_variable_of_the_hosts_environment_is_found(planted: Planted) -> None:
    assert planted.found_in(Place.PROCESSES) == {_VARIABLE}
    assert _VARIABLE in planted.found_in(Place.HOST_MEMORY)


def test_what_a_careless_process_logs_is_found(planted: Planted) -> None:
    assert planted.found_in(Place.ENCLAVE_LOGS) == {_LOGGED}


def test_a_field_that_is_not_on_the_list_reaches_neither_the_hosts_log_nor_its_metrics(planted: Planted) -> None:
    assert planted.found_in(Place.HOST_LOG) == {_PLAN}
    assert planted.found_in(Place.METRICS) == set()


def test_what_a_member_reads_in_its_apps_log_shows_that_the_search_knows_the_truth(
    canaries: Canaries, search: Search
) -> None:
    for site in canaries.sites:
        words = app_words(canaries.federation.folder, site.name)
        found = names(search.find({"app.log, opened": words.encode()}))
        assert {f"{site.name}: patient 0", f"{site.name}: update of round 1", f"{site.name}: model of round 1"} <= found


def test_the_members_own_folders_show_that_the_search_knows_keys_and_data(canaries: Canaries, search: Search) -> None:
    folder = canaries.federation.folder
    for site in canaries.sites:
        content = {str(path): path.read_bytes() for path in folder.member(site.name).rglob("*") if path.is_file()}
        found = {name for name in names(search.find(content)) if name.startswith(site.name)}
        expected = {pattern.needle for pattern in search.patterns if pattern.needle.startswith(f"{site.name}:")}
        in_files = {name for name in expected if " of round " not in name and not name.endswith(("X25519 key", "chip"))}
        assert in_files - {f"{site.name}: readings"} - found == set()


@pytest.mark.parametrize("start", [0, 1, 2, 3, 97, 998, 1000, 1023, 1024, 2047, 4000])
def test_every_form_is_found_at_every_alignment_and_across_blocks(start: int) -> None:
    patterns = [
        *text_needle("text", "patient-0123456789"),
        *number_needle("number", 748_120_937),
        *number_needle("fraction", 0.7316542908137),
        *vector_needle("vector", [1.5371934, -0.2731947, 0.9817235, 1.1371829]),
        *secret_needle("key", bytes(range(1, 33)), "-----BEGIN\n" + "Q" * 20 + "x4rTz8" * 4 + "\n"),
    ]
    search = Search(patterns, block_bytes=1024)
    for pattern in patterns:
        data = bytearray(start) + pattern.data + bytes(3)
        assert Found("it", start, pattern.needle, pattern.form) in search.find({"it": bytes(data)})
        for flipped in (start, start + len(pattern.data) - 1):
            other = bytearray(data)
            other[flipped] ^= 1
            assert Found("it", start, pattern.needle, pattern.form) not in search.find({"it": bytes(other)})
        assert Found("it", start, pattern.needle, pattern.form) not in search.find({"it": bytes(data[:-4])})


def test_a_pattern_that_chance_could_make_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        list(text_needle("short", "ab"))
    with pytest.raises(ValueError, match="too short"):
        list(number_needle("round", 4.0))
    with pytest.raises(ValueError, match="different"):
        list(vector_needle("constant", np.ones(4).tolist()))
