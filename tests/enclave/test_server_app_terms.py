"""What people agree to with an app's own server, and who refuses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.fold import fold
from coordinator.enclave.jobs import Inline
from coordinator.enclave.model import GlobalModel
from simulations.terms import Terms
from tests.enclave.server_apps import (
    TERMS,
    Lying,
    fed_avg,
    server_of,
    server_world,
    slow,
)
from tests.enclave.test_server_app_strategies import client_with
from tests.world import INITIAL, NOW, MemoryStore, Net, SimpleSite, World
from trusted.documents import site_policy as site_policies
from trusted.documents.explain import explain_plan, explain_site_policy
from trusted.documents.plan import Plan
from trusted.documents.terms import Aggregation, Cohort, Exchange
from trusted.encoding import Encoding
from trusted.errors import DocumentError, ProtocolError, Reason, RoundError


@pytest.fixture(scope="module")
def world(software_root, chip) -> World:
    return server_world(software_root, chip)


def plan_with(world: World, **changes: Any) -> Plan:
    return Plan.from_json(replace(world.plan.document, **changes).to_json())


@pytest.mark.parametrize(
    "more",
    [{"server": {"optimizer": "momentum", "learning_rate": 1, "beta_1": 0.9}}, {"proximal_mu": 0.1}, {"trim": 1}],
)
def test_what_our_own_fold_does_is_refused_beside_the_apps_server(more: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        Aggregation.read(TERMS | more)
    assert caught.value.reason in (Reason.DOCUMENT_RULE, Reason.UNKNOWN_FIELD)


@pytest.mark.parametrize("bound", ["max_exchanges", "max_message_mib", "turn_s"])
def test_a_bound_that_is_missing_or_out_of_range_is_refused(bound: str) -> None:
    for value in (None, 0, 1 << 30):
        document = {key: said for key, said in (TERMS | {bound: value}).items() if said is not None}
        with pytest.raises(ProtocolError):
            Aggregation.read(document)


def test_a_plan_with_a_privacy_mechanism_an_exchange_or_its_own_sampling_is_refused(world: World) -> None:
    from trusted.documents.terms import Privacy

    private = Privacy.read(
        {"mechanism": "member-clipping", "clip_norm": 1, "noise_multiplier": 1, "epsilon": 8, "delta": 1e-5}
    )
    terms = replace(world.plan.document.aggregation, max_weight=1)
    for changes in (
        {"privacy": private, "aggregation": terms},
        {"exchange": Exchange(model=Encoding.BFLOAT16)},
        {"cohort": Cohort(world.members, 2, 3)},
    ):
        with pytest.raises(DocumentError) as caught:
            plan_with(world, **changes)
        assert caught.value.reason is Reason.DOCUMENT_RULE


def test_a_site_that_says_nothing_of_an_apps_server_refuses_the_plan(software_root, chip) -> None:
    world = server_world(software_root, chip)
    for allowed in (0, TERMS["max_exchanges"] - 1):
        world.site_changes = {"server_app_exchanges": allowed}
        with pytest.raises(DocumentError) as caught:
            world.participant("site-1")
        assert caught.value.reason is Reason.SITE_REFUSES
        assert "server_app_exchanges" in caught.value.detail
    world.site_changes = {"server_app_exchanges": TERMS["max_exchanges"]}
    world.participant("site-1")


def test_a_worker_answers_no_message_of_a_plan_without_an_apps_server_and_trains_in_none_with(
    world: World, software_root, chip
) -> None:
    message = {"type": "message", "round": 1, "node": 7, "message": {}, "upload": {}}
    with pytest.raises(RoundError) as caught:
        World(software_root, chip).participant("site-1").take(message, NOW)
    assert caught.value.reason is Reason.SITE_REFUSES
    task = {"type": "task", "round": 1, "model": {}, "upload": {}}
    with pytest.raises(RoundError) as caught:
        world.participant("site-1").take(task, NOW)
    assert caught.value.reason is Reason.SITE_REFUSES


def test_an_update_is_no_message_under_this_rule_nor_a_reply_under_another(world: World, software_root, chip) -> None:
    net = slow(world, server_of(fed_avg), client_with(), ())
    net.say(1, {"type": "update", "round": 1})
    assert net.closed[1] is Reason.MALFORMED
    plain = Net(World(software_root, chip))
    plain.start()
    plain.join(SimpleSite(plain.world, "site-1", has_initial=True))
    plain.say(1, {"type": "reply", "round": 1})
    assert plain.closed[1] is Reason.MALFORMED


def test_an_aggregator_runs_no_server_for_a_plan_without_one_and_none_without_for_a_plan_with(
    world: World, software_root, chip
) -> None:
    other = World(software_root, chip)
    for of, port in ((other, Lying()), (world, None)):
        with pytest.raises(ValueError, match="only for one"):
            Aggregator(of.federation, of.identity("aggregator"), Net(other).store, server_app=port)


def test_who_is_asked_to_sign_reads_that_the_trusted_code_base_is_larger(world: World) -> None:
    said = "\n".join(explain_plan(world.plan.document, world.charter.document))
    assert "THE TRUSTED CODE BASE IS LARGER" in said
    assert world.plan.document.app.bundle_sha256.hex() in said
    assert "SEES EVERY SINGLE ANSWER" in said
    policy = site_policies.SitePolicy("site-1", bytes(32), (), (), 1, (), NOW, server_app_exchanges=9)
    assert "at most 9 time(s)" in "\n".join(explain_site_policy(policy))
    silent = replace(policy, server_app_exchanges=0)
    assert "server_app_exchanges" not in silent.to_json()
    assert site_policies.SitePolicy.parse(policy.encode()) == policy


def test_our_own_fold_and_a_simulation_make_no_model_under_this_rule(world: World) -> None:
    advance, plan = GlobalModel.first(INITIAL.copy(), 0).advance(None, 1), world.plan.document
    with pytest.raises(ValueError, match="own server"):
        fold([], MemoryStore(), terms=plan.aggregation, advance=advance, jobs=Inline())
    with pytest.raises(ValueError, match="own server"):
        Terms.of_plan(plan)
