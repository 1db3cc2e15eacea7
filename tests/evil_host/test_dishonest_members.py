"""Members that break the rules over a genuine session: refused by reason, at their own cost."""

from __future__ import annotations

import pytest

from softtee.chip import Chip, SoftwareRoot
from tests.evil_host.hosts import Host, counted, finished, joined
from tests.world import SimpleSite, World
from trusted.blob import ContentKey
from trusted.channel.federation import Federation
from trusted.documents.terms import Cohort
from trusted.errors import Reason


@pytest.fixture
def sampled(software_root: SoftwareRoot, chip: Chip) -> Host:
    """Four members, of whom each round samples three."""
    world = World(software_root, chip)
    world.plan = world.make_plan(cohort=Cohort(world.members, 2, 3))
    world.federation = Federation(world.charter, world.plan)
    host = Host(world)
    for index, member in enumerate(world.members):
        site = SimpleSite(world, member, has_initial=index == 0)
        site.automatic = False
        host.join(site)
    host.start()
    return host


def outsider(host: Host) -> int:
    """The connection of the member that this round did not sample."""
    return next(connection for connection, site in host.sites.items() if not site.tasks)


def update(blob: bytes, **changes: object) -> dict[str, object]:
    key = ContentKey.generate().secret.hex()
    message = {"type": "update", "round": 1, "blob": blob.hex(), "key": key, "weight": 1, "metrics": {}}
    return message | {"prefix_sha256": "00" * 32} | changes


def finish(host: Host) -> list[set[str]]:
    for connection, site in host.sites.items():
        site.automatic = True
        if site.tasks:
            host.contribute(connection, site.tasks[-1])
    return counted(finished(host))


def test_a_member_that_was_not_sampled_cannot_contribute(sampled: Host) -> None:
    connection, inside = outsider(sampled), next(site for site in sampled.sites.values() if site.tasks)
    host = sampled
    for blob in (bytes(16), inside.tasks[0].upload):
        host.say(connection, update(blob))
    assert host.sites[connection].receipts == [Reason.NOT_IN_COHORT] * 2
    assert host.sites[connection].member not in finish(host)[0]


def test_a_member_that_was_not_sampled_gets_no_model_by_saying_ready_again(sampled: Host) -> None:
    connection = outsider(sampled)
    for _ in range(3):
        sampled.say(connection, {"type": "ready", "has_initial": True, "promised": None})
    assert sampled.sites[connection].tasks == []
    assert connection not in sampled.closed


def test_a_failure_told_by_an_outsider_loses_nobody(sampled: Host) -> None:
    sampled.say(outsider(sampled), {"type": "failed", "round": 1, "reason": int(Reason.APP_FAILED)})
    assert len(finish(sampled)[0]) == 3


def test_a_member_cannot_answer_for_another(world: World) -> None:
    """It names the other's upload; the answer costs its own place, and the other still counts."""
    host = joined(Host(world), automatic=False)
    host.say(1, update(host.sites[2].tasks[0].upload))
    assert host.sites[1].receipts == [Reason.ROUND_STATE]
    assert finish(host)[0] == {"site-2", "site-3", "site-4"}


def test_a_key_that_opens_nothing_costs_its_own_contribution(world: World) -> None:
    host = joined(Host(world), automatic=False)
    host.contribute(1, host.sites[1].tasks[0], key=ContentKey.generate().secret.hex())
    assert host.sites[1].receipts == [Reason.BLOB_OPEN]
    assert finish(host)[0] == {"site-2", "site-3", "site-4"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weight": 1.5}, Reason.WRONG_TYPE),
        ({"weight": True}, Reason.WRONG_TYPE),
        ({"round": 0}, Reason.MALFORMED),
        ({"key": "00" * 31}, Reason.MALFORMED),
        ({"key": "AA" * 32}, Reason.MALFORMED),
        ({"prefix_sha256": "00" * 31}, Reason.MALFORMED),
        ({"prefix_sha256": None}, Reason.WRONG_TYPE),
        ({"also": 1}, Reason.UNKNOWN_FIELD),
        ({"metrics": []}, Reason.WRONG_TYPE),
    ],
)
def test_an_update_that_is_none_ends_its_senders_session_only(
    world: World, change: dict[str, object], reason: Reason
) -> None:
    host = joined(Host(world), automatic=False)
    host.say(1, update(host.sites[1].tasks[0].upload, **change))
    if "also" in change:  # the fields are read first, so it was answered before the surplus was seen
        assert host.closed == {1: reason}
    else:
        assert (host.closed, host.sites[1].receipts) == ({1: reason}, [])
    assert set(host.aggregator._admissions.members) == {"site-2", "site-3", "site-4"}


def test_a_worker_that_challenges_without_end_gets_evidence_of_one_size_and_nothing_else(world: World) -> None:
    host = joined(Host(world), automatic=False)
    host.attack_down = lambda connection, frame: []
    before = len(host.sent_down[1])
    for number in range(20):
        host.say(1, {"type": "challenge", "nonce": f"{number:064x}"})
    answers = host.sent_down[1][before:]
    assert len(answers) == 20
    assert len({len(frame) for frame in answers}) == 1
    assert host.closed == {}
