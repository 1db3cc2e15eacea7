"""A key leaves for an attested TEE that its member granted it to, and for nobody else (docs/protocol.md §15)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.keys.conftest import RECIPIENT_MEASUREMENT
from tests.keys.holdings import KEY_ID, MEMBER, MemoryHoldings, asker, exchanged, refused, requester
from tests.world import NOW, WORKER_MEASUREMENT, World
from trusted.attestation.roots import Assurance
from trusted.channel.federation import Federation
from trusted.documents.grant import Holder
from trusted.documents.schema import Validity
from trusted.errors import Reason
from trusted.keys.binding import Wanted


def test_an_attested_worker_of_the_member_gets_the_key(world, holdings):
    grant = holdings.grant(world)
    got = exchanged(holdings, requester(world))
    assert got.key == holdings.key
    assert got.grant.digest == grant.digest
    assert [result.measurement for result in holdings.taken] == [WORKER_MEASUREMENT]


def test_an_attested_recipient_runtime_gets_a_models_key(world, holdings):
    holdings.grant(world, role=Holder.RECIPIENT)
    assert exchanged(holdings, requester(world, asker(world, role=Holder.RECIPIENT))).key == holdings.key
    assert holdings.taken[0].measurement == RECIPIENT_MEASUREMENT


def test_a_worker_gets_no_key_that_was_granted_to_recipients(world, holdings):
    holdings.grant(world, role=Holder.RECIPIENT)
    assert refused(holdings, requester(world)) is Reason.NOT_GRANTED


def test_a_worker_that_says_it_is_a_recipient_is_refused(world, holdings):
    holdings.grant(world, role=Holder.RECIPIENT)
    liar = replace(asker(world), role=Holder.RECIPIENT)
    assert refused(holdings, requester(world, liar)) in {Reason.MEASUREMENT, Reason.HOST_DATA}


def test_a_charter_without_recipients_admits_none(software_root, chip):
    plain = World(software_root, chip)
    holdings = MemoryHoldings([plain.federation])
    holdings.grant(plain, role=Holder.RECIPIENT)
    asking = requester(plain, asker(plain, role=Holder.RECIPIENT))
    assert refused(holdings, asking) is Reason.POLICY_UNSET


def test_another_measurement_than_the_charters_is_refused(world, holdings):
    holdings.grant(world)
    assert refused(holdings, requester(world, asker(world, measurement=b"\x11" * 48))) is Reason.MEASUREMENT


def test_another_measurement_than_the_grants_is_refused(world, holdings):
    holdings.grant(world, measurements=(b"\x11" * 48,))
    assert refused(holdings, requester(world)) is Reason.MEASUREMENT
    holdings.grant(world, measurements=(b"\x11" * 48, WORKER_MEASUREMENT))
    assert exchanged(holdings, requester(world)).key == holdings.key


def test_a_software_tee_is_refused_where_hardware_is_asked_for(world, holdings):
    holdings.grant(world, assurance=Assurance.HARDWARE)
    assert refused(holdings, requester(world)) is Reason.ASSURANCE


def test_a_worker_of_another_plan_is_refused(world, holdings):
    holdings.grant(world)
    other = Federation(world.charter, world.make_plan(name="another plan"))
    holdings.federations.append(other)
    asking = asker(world, plan=other.plan)
    assert refused(holdings, requester(world, asking, federation=other)) is Reason.WRONG_PLAN


def test_evidence_of_another_plan_under_the_right_plans_name_is_refused(world, holdings):
    holdings.grant(world)
    asking = asker(world, plan=world.make_plan(name="another plan"))
    assert refused(holdings, requester(world, asking)) is Reason.HOST_DATA


def test_a_worker_under_another_charter_is_refused(world, holdings, software_root, chip):
    holdings.grant(world)
    other = World(software_root, chip)
    assert refused(holdings, requester(other, asker(other))) is Reason.WRONG_CHARTER


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [(-1, Reason.GRANT_NOT_YET_VALID), (0, None), (600, None), (601, Reason.GRANT_EXPIRED)],
)
def test_a_grant_holds_in_its_own_time_and_at_no_other(world, holdings, seconds, reason):
    holdings.grant(world, validity=Validity(NOW, NOW + timedelta(seconds=600)))
    now = NOW + timedelta(seconds=seconds)
    if reason is None:
        assert exchanged(holdings, requester(world), now).key == holdings.key
    else:
        assert refused(holdings, requester(world), now) is reason


def test_a_revoked_grant_is_refused(world, holdings):
    holdings.grant(world, revoked=True)
    assert refused(holdings, requester(world)) is Reason.GRANT_REVOKED


def test_no_more_keys_leave_than_were_granted(world, holdings):
    holdings.grant(world, releases=2)
    assert exchanged(holdings, requester(world)).key == exchanged(holdings, requester(world)).key
    assert refused(holdings, requester(world)) is Reason.GRANT_EXHAUSTED


def test_a_later_grant_goes_on_where_an_earlier_one_ended(world, holdings):
    holdings.grant(world, revoked=True)
    later = holdings.grant(world, nonce=b"\x02" * 16)
    assert exchanged(holdings, requester(world)).grant.digest == later.digest


def test_an_earlier_grant_still_serves_where_a_later_one_asks_for_more(world, holdings):
    earlier = holdings.grant(world)
    holdings.grant(world, nonce=b"\x02" * 16, assurance=Assurance.HARDWARE)
    assert exchanged(holdings, requester(world)).grant.digest == earlier.digest


def test_a_key_that_the_broker_does_not_hold_is_refused(world, holdings):
    holdings.grant(world)
    assert refused(holdings, requester(world, key_id=b"\x00" * 32)) is Reason.KEY_UNKNOWN


def test_a_retired_key_is_refused(world, holdings):
    holdings.grant(world)
    holdings.retired = True
    assert refused(holdings, requester(world)) is Reason.KEY_RETIRED


def test_a_key_that_was_granted_to_nobody_is_refused(world, holdings):
    assert refused(holdings, requester(world)) is Reason.NOT_GRANTED


def test_the_attested_worker_of_another_member_is_refused(world, holdings):
    """The same code on the same hardware, started by another organisation."""
    holdings.grant(world)
    assert refused(holdings, requester(world, asker(world, member="site-2"))) is Reason.GRANT_HOLDER


def test_a_member_may_let_another_members_runtime_have_its_key(world, holdings):
    holdings.grant(world, role=Holder.RECIPIENT, holder="site-2")
    asking = asker(world, role=Holder.RECIPIENT, member="site-2")
    assert exchanged(holdings, requester(world, asking)).key == holdings.key


def test_a_stolen_credential_without_its_key_is_refused(world, holdings):
    holdings.grant(world)
    thief = replace(asker(world), worker_key=world.worker_keys["site-2"])
    assert refused(holdings, requester(world, thief)) is Reason.PEER_SIGNATURE


def test_a_member_who_is_no_recipient_hands_out_no_models_key(world, holdings):
    holdings.grant(world, role=Holder.RECIPIENT, member="site-2", holder="site-2")
    asking = asker(world, role=Holder.RECIPIENT, member="site-2")
    assert refused(holdings, requester(world, asking, member="site-2")) is Reason.NOT_A_RECIPIENT


def test_a_member_outside_the_cohort_feeds_no_worker(world, holdings):
    smaller = world.make_plan(cohort=type(world.plan.document.cohort)(("site-2", "site-3"), 2, 2))
    federation = Federation(world.charter, smaller)
    holdings.federations.append(federation)
    holdings.grant(world, plan=smaller.digest)
    asking = asker(world, plan=smaller)
    assert refused(holdings, requester(world, asking, federation=federation)) is Reason.UNKNOWN_MEMBER


def test_a_plan_that_has_ended_lets_no_key_go(world, holdings):
    holdings.grant(world, validity=Validity(NOW, NOW + timedelta(days=365)))
    assert refused(holdings, requester(world), NOW + timedelta(days=25)) is Reason.DOCUMENT_EXPIRED


def test_what_is_asked_for_is_four_things_and_all_of_them_are_bound():
    wanted = Wanted(Holder.WORKER, b"c" * 32, b"p" * 32, KEY_ID)
    assert wanted.fields == (b"worker", b"c" * 32, b"p" * 32, KEY_ID)
    assert MEMBER not in str(wanted.fields)
