"""After and during a whole run, no secret of any site stands anywhere that its hosts could look."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.canary.agreement import MACHINES, ROUNDS
from tests.canary.conftest import Canaries
from tests.canary.observing import Place
from tests.canary.search import Search
from tests.canary.sites import ELEMENTS, NAMES
from trusted.blob import BlobHeader, BlobKind

pytestmark = pytest.mark.slow

# Less than this would mean that a place was not really read.
_AT_LEAST_BYTES = {
    Place.HOST_MEMORY: 50 << 20,
    Place.HOST_DISK: 4 * ELEMENTS * 2 * ROUNDS,  # while a round is open: its model and an update
    Place.FILE_NAMES: 500,
    Place.HOST_LOG: 10_000,
    Place.METRICS: 10_000,
    Place.PROCESSES: 1000,
    Place.GRPC: 4 * ELEMENTS * 2 * len(NAMES) * ROUNDS,
    Place.DOOR: 4 * ELEMENTS * 2 * len(NAMES) * ROUNDS,
    Place.LOOPBACK: 2 * 4 * ELEMENTS * 2 * len(NAMES) * ROUNDS,  # to the relay, and from the relay to the host
    Place.ENCLAVE_LOGS: 500,
}


def test_the_run_was_whole(canaries: Canaries) -> None:
    assert canaries.statuses == dict.fromkeys(MACHINES, 0)
    assert canaries.opened.release.rounds == ROUNDS
    assert canaries.opened.release.contributions == tuple((number, NAMES) for number in range(1, ROUNDS + 1))


def test_the_canaries_truly_were_in_data_model_and_updates(canaries: Canaries, initial: NDArray[np.float32]) -> None:
    for site in canaries.sites:
        rounds = canaries.told[site.name]
        assert len(rounds) == ROUNDS
        for told in rounds:
            assert np.allclose(told["update"], site.readings[:4], rtol=1e-5)
    weights = np.array([site.examples for site in canaries.sites], dtype=np.float64)
    readings = np.array([site.readings[:4] for site in canaries.sites])
    expected = initial + ROUNDS * (weights / weights.sum()) @ readings
    rows = canaries.opened.vector.reshape(-1, 4)
    assert np.allclose(rows[0], expected, rtol=1e-5)
    assert (rows == rows[0]).all()


@pytest.mark.parametrize("place", list(Place), ids=lambda place: place.value.replace(" ", "-"))
def test_no_secret_stands_in(place: Place, canaries: Canaries, search: Search) -> None:
    if place is Place.LOOPBACK and canaries.capture is None:
        pytest.skip("capturing loopback needs CAP_NET_RAW")
    assert canaries.sightings.size_bytes(place) >= _AT_LEAST_BYTES[place]
    found = search.find(canaries.sightings.by_place[place])
    assert sorted({f"{item.needle} as {item.form} in {item.source}" for item in found})[:20] == []


def test_every_page_of_the_host_and_every_packet_was_seen(canaries: Canaries) -> None:
    assert canaries.sightings.unread_memory == []
    assert canaries.sightings.dropped_packets == 0


def test_every_environment_was_read(canaries: Canaries) -> None:
    unread = canaries.sightings.unread_environments
    assert canaries.federation.host_pid not in unread
    if unread:
        pytest.skip(f"enclaves are not dumpable: reading {len(unread)} environments needs CAP_SYS_PTRACE")


def test_the_host_was_looked_at_while_it_held_a_model_and_updates(canaries: Canaries) -> None:
    plan = canaries.federation.papers.plan
    layout = plan.document.layout
    disk = canaries.sightings.by_place[Place.HOST_DISK]
    for number in range(1, ROUNDS + 1):
        sizes = [len(data) for source, data in disk.items() if source.startswith(f"in round {number}: blobs/")]
        for kind, sender in ((BlobKind.MODEL, "aggregator"), (BlobKind.UPDATE, NAMES[0])):
            header = BlobHeader(kind, plan.digest, number, sender, layout.digest, layout.elements)
            assert header.sealed_bytes in sizes
    assert all(any(source.startswith(f"in round 2: {name}") for source in disk) for name in ("host.sqlite", "tls"))
    regions = canaries.sightings.by_place[Place.HOST_MEMORY]
    assert all(any(name in source for source in regions) for name in ("[heap]", "[stack]", "anonymous", "cygrpc"))
