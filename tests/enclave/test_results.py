"""The aggregator's signed word about each admission: bound to its key, member, plan, nonce and lease."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coordinator.host.events import public_event
from tests.world import Net, SimpleSite, World
from trusted.attestation.ear import open_ear, verify_ear
from trusted.channel.results import aggregator_subject, issue_result, worker_subject
from trusted.errors import AttestationError, Reason


def admitted(world: World, *members: str) -> tuple[Net, dict[str, dict[str, Any]]]:
    """A net with these members, and what the public was told of each."""
    net = Net(world)
    for index, member in enumerate(members):
        net.join(SimpleSite(world, member, has_initial=index == 0))
    return net, {fields["member"]: fields for fields in net.outcomes("attested")}


def key_of(net: Net) -> bytes:
    """The aggregator's key, as a worker that admitted it knows it."""
    return net.sites[1].channel.session.peer.verify_key


def test_every_admission_is_told_with_a_result_that_verifies(world: World) -> None:
    net, told = admitted(world, "site-1", "site-2")
    assert set(told) == {"site-1", "site-2"}
    for member, fields in told.items():
        ear = verify_ear(fields["ear"], key_of(net), net.now)
        assert ear.subject == worker_subject(world.federation.plan.digest, member)
        policies = world.charter.document.worker.platforms.values()
        assert ear.parts[0].policy_digest in {policy.digest for policy in policies}
        assert ear.expires <= net.now + timedelta(seconds=world.federation.plan.document.deadlines.lease_s)
        assert len(ear.nonce) == 32


def test_each_admission_answers_a_question_of_its_own(world: World) -> None:
    net, told = admitted(world, "site-1", "site-2")
    nonces = {open_ear(fields["ear"], key_of(net)).nonce for fields in told.values()}
    assert len(nonces) == 2


def test_every_renewed_lease_is_told_and_nothing_is_told_twice(world: World) -> None:
    net, told = admitted(world, "site-1")
    first = open_ear(told["site-1"]["ear"], key_of(net))
    net.pass_time(world.federation.plan.document.deadlines.reattest_s + 1)
    tokens = [fields["ear"] for fields in net.outcomes("attested")]
    assert len(tokens) == len(set(tokens)) == 2
    second = open_ear(tokens[-1], key_of(net))
    assert second.expires > first.expires
    assert second.nonce != first.nonce


def test_a_refused_worker_gets_no_result(world: World) -> None:
    net = Net(world)
    net.join(SimpleSite(world, "site-1", measurement=bytes(48)))
    assert net.outcomes("refused")
    assert net.outcomes("attested") == []


def test_a_result_passes_the_hosts_list_whole_and_holds_no_chip_id(world: World) -> None:
    net, told = admitted(world, "site-1")
    shown = public_event({"event": "attested", **told["site-1"]}, plan=bytes(32), now=net.now)
    assert (shown.dropped, shown.fields["ear"]) == (0, told["site-1"]["ear"])


def test_an_altered_result_and_one_of_another_aggregator_prove_nothing(world: World) -> None:
    net, told = admitted(world, "site-1")
    other, _ = admitted(world, "site-1")
    token = told["site-1"]["ear"]
    for place in range(0, len(token), 37):
        if token[place] == ".":
            continue
        flipped = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        with pytest.raises(Exception, match="EAR") as error:
            open_ear(flipped, key_of(net))
        assert error.value.reason in (Reason.EVIDENCE_SIGNATURE, Reason.UNSUPPORTED_VERSION, Reason.MALFORMED)  # type: ignore[attr-defined]
    with pytest.raises(AttestationError) as foreign:
        open_ear(token, key_of(other))
    assert foreign.value.reason is Reason.EVIDENCE_SIGNATURE


def test_a_worker_signs_its_word_about_the_aggregator_that_it_admitted(world: World) -> None:
    net, _ = admitted(world, "site-1")
    site = net.sites[1]
    subject = aggregator_subject(world.federation.plan.digest)
    token = issue_result(site.channel.session, subject, site.identity)
    ear = verify_ear(token, site.identity.verify_key, net.now)
    assert ear.subject == subject
    policies = world.charter.document.aggregator.platforms.values()
    assert ear.parts[0].policy_digest in {policy.digest for policy in policies}
    with pytest.raises(AttestationError):
        open_ear(token, key_of(net))
