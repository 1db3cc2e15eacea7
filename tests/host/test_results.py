"""Signed results as a host tells them: listed, verified, and worth nothing where the host has had a hand in them."""

from __future__ import annotations

import pytest

from console.ordering import Desk
from console.output import UserError
from console.results import Listed, listed_results, under_charter
from tests.host.conftest import RunningHost
from tests.world import Net, SimpleSite, World
from trusted.attestation.ear import VerifiedEar
from trusted.errors import ProtocolError, Reason


@pytest.fixture
def told(world: World) -> tuple[bytes, dict[str, str]]:
    """An aggregator's key, and its results about two members."""
    net = Net(world)
    for member in ("site-1", "site-2"):
        net.join(SimpleSite(world, member))
    key = net.sites[1].channel.session.peer.verify_key
    return key, {fields["member"]: fields["ear"] for fields in net.outcomes("attested")}


def listed(host: RunningHost, world: World, key: bytes, events: list[tuple[str, str]]) -> list[Listed]:
    """What a member reads after an aggregator's door told ``events`` (member, token)."""
    plan = world.federation.plan
    door = host.door(plan=plan.digest)
    for member, token in events:
        door.event(event="attested", member=member, session=1, ear=token)
    door.event(event="end")
    client = host.client()
    while not any(event.fields["event"] == "end" for event in client.recorded(plan.digest)):
        pass
    return list(listed_results(Desk(world.charter, plan, client), key))


def test_every_result_is_listed_and_verified_under_the_charters_policy(
    host: RunningHost, world: World, told: tuple[bytes, dict[str, str]]
) -> None:
    key, tokens = told
    found = listed(host, world, key, list(tokens.items()))
    assert [entry.member for entry in found] == ["site-1", "site-2"]
    for entry in found:
        assert isinstance(entry.found, VerifiedEar)
        assert under_charter(entry.found, world.charter) == "yes"


def test_what_a_host_alters_or_hangs_on_another_member_proves_nothing(
    host: RunningHost, world: World, told: tuple[bytes, dict[str, str]]
) -> None:
    key, tokens = told
    token = tokens["site-1"]
    flipped = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
    found = listed(host, world, key, [("site-2", token), ("site-1", flipped), ("site-1", token[:-2])])
    reasons = [entry.found.reason for entry in found if isinstance(entry.found, ProtocolError)]
    assert reasons == [Reason.KEY_BINDING, Reason.EVIDENCE_SIGNATURE, Reason.EVIDENCE_SIGNATURE]


def test_another_aggregators_key_verifies_none(
    host: RunningHost, world: World, told: tuple[bytes, dict[str, str]]
) -> None:
    (entry,) = listed(host, world, bytes(32), [("site-1", told[1]["site-1"])])
    assert isinstance(entry.found, ProtocolError)
    assert entry.found.reason is Reason.EVIDENCE_SIGNATURE


def test_without_a_key_and_a_release_nothing_is_believed(
    host: RunningHost, world: World, told: tuple[bytes, dict[str, str]]
) -> None:
    listed(host, world, told[0], [])
    desk = Desk(world.charter, world.federation.plan, host.client())
    with pytest.raises(UserError):
        list(listed_results(desk, None))
