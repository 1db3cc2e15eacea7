"""What an untrusted host ever sees: order and form of all frames, and no secret in any of them, in blobs or events."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from softtee.chip import Chip, SoftwareRoot
from tests.evil_host.hosts import VICTIM, Host, finished, joined, open_release
from tests.world import LAYOUT, MemoryStore, SimpleSite, World
from trusted.documents.plan import initial_digest
from trusted.documents.terms import Aggregation
from trusted.wire import label_of, pack

HELLO_BYTES = len(pack("cloister/hello/v1", bytes(32), bytes(32), bytes(32)))
_WINDOW = 16  # bytes of a vector that stand for it: four float32 that nothing else holds


class Recording(MemoryStore):
    """A host that keeps a copy of every blob it ever held, whatever it was asked to forget."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def write(self, blob: bytes, size_bytes: int, pieces: Iterable[bytes]) -> None:
        super().write(blob, size_bytes, pieces)
        self.seen.append(self.blobs[blob])


class Watched(Host):
    """A whole run whose host keeps everything, while the test knows every secret in it."""

    def __init__(self, world: World, initial: np.ndarray) -> None:
        self.recording = Recording()
        super().__init__(world, self.recording)
        self.order: list[tuple[int, str, str]] = []
        self.said: list[dict[str, Any]] = []
        self.vectors = [initial]

    def to_aggregator(self, connection: int, frame: bytes) -> list[bytes]:
        self.order.append((connection, "up", label_of(frame)))
        return super().to_aggregator(connection, frame)

    def to_worker(self, connection: int, frame: bytes) -> list[bytes]:
        self.order.append((connection, "down", label_of(frame)))
        return super().to_worker(connection, frame)

    def stored(self, connection: int, sealed: bytes) -> bytes:
        self.recording.seen.append(sealed)
        return sealed

    def say(self, connection: int, message: dict[str, Any]) -> None:
        self.said.append(message)
        if message["type"] == "initial":
            self.recording.seen.append(self.store.blobs[bytes.fromhex(message["blob"])])
        super().say(connection, message)

    def everything_the_host_saw(self) -> list[bytes]:
        frames = [frame for sent in (self.sent_up, self.sent_down) for some in sent.values() for frame in some]
        events = [json.dumps({"event": event, **fields}).encode() for event, fields in self.events]
        return [*frames, *self.recording.seen, *self.store.blobs.values(), *events]


class CanarySite(SimpleSite):
    """A site whose updates are patterns that the test keeps."""

    def watched_by(self, host: Watched, canaries: np.random.Generator) -> None:
        self.host, self.canaries = host, canaries

    def delta(self, model: np.ndarray) -> np.ndarray:
        made: np.ndarray = self.canaries.standard_normal(model.size).astype("<f4")
        self.host.vectors += [made, model]
        return made


@pytest.fixture(scope="module")
def canaries() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture(scope="module")
def run(software_root: SoftwareRoot, chip: Chip, canaries: np.random.Generator) -> Watched:
    """A finished run: initial model, updates, weights and metrics are patterns that occur nowhere else."""
    initial = canaries.standard_normal(LAYOUT.elements).astype("<f4")
    changes = {
        "initial_sha256": initial_digest(LAYOUT, initial.tobytes()),
        "aggregation": Aggregation.read({"rule": "weighted-mean", "max_weight": 10**9}),
    }
    world = World(software_root, chip, plan_changes=changes, initial=initial)
    host = Watched(world, initial)
    host.start()
    for index in range(len(world.members)):
        host.join(watched_site(host, index, canaries))
    host.vectors.append(open_release(host, finished(host)))
    return host


def watched_site(host: Watched, index: int, canaries: np.random.Generator) -> SimpleSite:
    world, member = host.world, host.world.members[index]
    site = CanarySite(world, member, has_initial=index == 0)
    site.watched_by(host, canaries)
    site.weight = 700_000_001 + 1_357_911 * index
    site.metrics = {"auc": float(canaries.random())}
    return site


def secrets_of(run: Watched) -> dict[str, bytes]:
    """Every byte pattern that no host may see, by what it is."""
    found: dict[str, bytes] = {}
    for number, vector in enumerate(run.vectors):
        data = np.ascontiguousarray(vector).tobytes()
        for place in (0, len(data) // 2 // 4 * 4, len(data) - _WINDOW):
            found[f"vector {number} at {place}"] = data[place : place + _WINDOW]
    for number, message in enumerate(run.said):
        found |= _secrets_of_message(number, message)
    for connection, site in run.sites.items():
        for task in site.tasks:
            found |= _both(f"model key {connection} {task.round}", task.model_key.secret)
        found |= _both(f"secret_w {connection}", site.channel._secret)
        found |= _both(f"signing key {connection}", site.identity.signing_key.private_bytes_raw())
        found |= _both(f"kem key {connection}", site.channel._kem.to_bytes())
        found |= _both(f"worker key {connection}", run.world.worker_keys[site.member].private_bytes_raw())
    found |= _both("aggregator key", run.aggregator._admissions.identity.signing_key.private_bytes_raw())
    found |= _both("release key", finished(run).open_key("site-1", run.world.sealing["site-1"]).secret)
    return found


def _secrets_of_message(number: int, message: dict[str, Any]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if "key" in message:
        found |= _both(f"content key {number}", bytes.fromhex(message["key"]))
    if "weight" in message:
        weight = message["weight"]
        found[f"weight {number}"] = str(weight).encode()
        for form in (">I", "<I", ">Q", "<Q", "<d", ">d"):
            found[f"weight {number} {form}"] = struct.pack(form, weight)
    for name, value in message.get("metrics", {}).items():
        found[f"metric {number} {name}"] = repr(value)[:12].encode()
        found[f"metric {number} {name} <d"] = struct.pack("<d", value)
        found[f"metric {number} {name} >d"] = struct.pack(">d", value)
    return found


def _both(name: str, secret: bytes) -> dict[str, bytes]:
    return {name: secret[:_WINDOW], f"{name} in hex": secret.hex()[: 2 * _WINDOW].encode()}


def leaks(seen: list[bytes], secrets: dict[str, bytes]) -> list[str]:
    """The names of the secrets that stand in what was seen; a name only, for a failing test is read by many."""
    haystack = b"\0\0\0\0".join(seen)
    return [name for name, secret in secrets.items() if secret in haystack]


def test_no_secret_of_a_whole_run_stands_in_any_frame_blob_or_event(run: Watched) -> None:
    secrets, seen = secrets_of(run), run.everything_the_host_saw()
    assert len(secrets) > 150
    assert sum(map(len, seen)) > 100_000
    assert leaks(seen, secrets) == []


def test_the_search_finds_every_secret_that_is_planted(run: Watched) -> None:
    """Positive control: each one, put anywhere into what the host saw, is found by its name."""
    secrets, seen = secrets_of(run), run.everything_the_host_saw()
    for number, (name, secret) in enumerate(secrets.items()):
        place = number % len(seen)
        middle = len(seen[place]) // 2
        planted = seen[place][:middle] + secret + seen[place][middle:]
        assert name in leaks([planted], {name: secret})


def test_an_unsealed_update_would_be_found(run: Watched) -> None:
    """Positive control, end to end: the same run with one blob stored in clear."""
    plain = run.vectors[1].tobytes()
    assert [name for name in leaks([*run.everything_the_host_saw(), plain], secrets_of(run)) if "vector 1 " in name]


def test_every_session_is_hello_offer_join_welcome_and_then_records_only(run: Watched) -> None:
    for connection in run.sites:
        mine = [(way, label.split("/")[1]) for at, way, label in run.order if at == connection]
        assert mine[:4] == [("up", "hello"), ("down", "offer"), ("up", "join"), ("down", "welcome")]
        assert mine[4] == ("up", "record")
        assert {label for _, label in mine[4:]} == {"record"}


def test_updates_of_all_members_and_rounds_have_one_size(run: Watched) -> None:
    uploads = {task.upload: task for site in run.sites.values() for task in site.tasks}
    assert len(uploads) == 8
    sizes = [len(sealed) for sealed in run.recording.seen if b'"kind":"update"' in sealed[:200]]
    assert len(sizes) == 8
    assert len(set(sizes)) == 1


def test_disclosed_metrics_are_the_only_numbers_of_sites_in_events(run: Watched) -> None:
    allowed = {"session", "member", "assurance", "measurement", "round", "rounds", "outcome", "reason", "waiting_for"}
    for event, fields in run.events:
        more = {"attested": {"ear"}, "checkpoint": {"size", "root"}}.get(event, {"bytes", "metrics"})
        assert set(fields) <= allowed | more, event
    assert [set(fields["metrics"]) for fields in run.outcomes("round-committed")] == [{"auc"}, {"auc"}]


def test_signed_results_in_events_hold_listed_values_and_no_number_of_a_site(run: Watched) -> None:
    results = run.outcomes("attested")
    assert results
    said = {"format", "product", "instance_key", "provider", "measurement", "assurance", "skips", "evidence"}
    for fields in results:
        claims = json.loads(base64.urlsafe_b64decode(fields["ear"].split(".")[1] + "=="))
        assert set(claims) == {"eat_profile", "iat", "exp", "eat_nonce", "ear_verifier_id", "submods", "sub"}
        assert set(claims["submods"]) == {"cpu"}
        assert set(claims["submods"]["cpu"]["ear_verifier_claims"]) == said


# --- before anybody is verified ---------------------------------------------------------------------------------------


def test_before_the_offer_is_verified_a_worker_has_sent_one_hello_of_fixed_length(world: World) -> None:
    host = Host(world)
    host.attack_down = lambda connection, frame: []
    joined(host)
    for connection in host.sites:
        (hello,) = host.sent_up[connection]
        assert len(hello) == HELLO_BYTES
        assert hello.endswith(pack("cloister/hello/v1", bytes(32), world.charter.digest, world.plan.digest)[-72:])


def test_two_hellos_of_a_member_share_nothing_but_the_digests(world: World) -> None:
    """The nonce is fresh, and it stands for nobody: hellos of two members cannot be told apart."""
    first, second = (SimpleSite(world, member).channel.begin() for member in ("site-1", "site-2"))
    assert first[-72:] == second[-72:]
    assert first[: len(first) - 104] == second[: len(second) - 104]
    assert first[-104:-72] != second[-104:-72]


def test_before_the_join_is_verified_the_aggregator_has_sent_one_offer(world: World) -> None:
    """A run is going on and a model is there: whoever says hello gets an offer, and not one byte more."""
    host = joined(Host(world), ("site-1", "site-2", "site-3"), automatic=False)
    for _ in range(13):
        host.pass_time(10)
    assert len(host.outcomes("round-opened")) == 1
    host.attack_up = lambda connection, frame: [] if label_of(frame) == "cloister/join/v1" else [frame]
    host.join(SimpleSite(world, "site-4"))
    assert [label_of(frame) for frame in host.sent_down[VICTIM]] == ["cloister/offer/v1"]


def test_before_a_record_proves_the_keys_a_worker_gets_no_task(world: World) -> None:
    """Evidence and credential are good, but nobody has shown yet to hold the session's keys."""
    host = Host(world)
    host.attack_up = lambda connection, frame: [] if label_of(frame) == "cloister/record/v1" else [frame]
    joined(host)
    for connection in host.sites:
        assert [label_of(frame) for frame in host.sent_down[connection]] == ["cloister/offer/v1", "cloister/welcome/v1"]
    assert host.outcomes("admitted") == []
    assert host.store.blobs == {}


def test_the_aggregator_stores_no_model_before_a_member_is_admitted(world: World) -> None:
    """No blob of it exists while the host only opens connections and throws bytes at it."""
    host = Host(world)
    host.start()
    for connection in range(1, 6):
        host.perform(host.aggregator.attach(connection, host.now))
        host.perform(host.aggregator.receive(connection, pack("cloister/record/v1", bytes(8), bytes(99)), host.now))
        host.pass_time(60)
    assert (host.store.blobs, host.store.expected) == ({}, {})
