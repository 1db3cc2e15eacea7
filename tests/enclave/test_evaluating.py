"""The final model is judged inside, before the release, by whoever is there; what is told of it is one signed card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coordinator.enclave.evaluating import TABLE, Evaluating, EvaluationEvent, EvaluationState
from coordinator.enclave.scoring import Auc
from tests.enclave.evaluations import card_of, tables_of, terms, world_of
from tests.enclave.recoveries import Mortal, begun, crash_at, go_on
from tests.world import INITIAL, NOW, Net, SimpleSite, World
from trusted.card import card_name, encode_card, sign_card, verify_card
from trusted.errors import DocumentError, ProtocolError, Reason, RoundError
from trusted.ledger import leaves
from trusted.release import release_name, sign_release, verify_release
from trusted.tables import Tables
from trusted.wire import sha256, unpack

LEASE_S, STEP_S = 120, 10


@pytest.fixture(scope="module")
def judged(software_root, chip):
    return world_of(software_root, chip)


def joined(world: World, net: Net | None = None, **site: Any) -> Net:
    """All members, who answer with tables; the attributes ``site`` are set on each of them."""
    net = net or Net(world)
    net.start()
    for place, member in enumerate(world.members):
        one = SimpleSite(world, member, has_initial=place == 0)
        evaluation = world.plan.document.evaluation
        one.tables = None if evaluation is None else tables_of(evaluation, place)
        for name, value in site.items():
            setattr(one, name, value)
        net.join(one)
    return net


def refused(call: Any, *arguments: Any) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        call(*arguments)
    return caught.value.reason


# --- the card ---


def test_the_card_folds_the_tables_of_all_sites(judged):
    net = joined(judged)
    card = card_of(net, judged).content
    found = card["evaluation"]
    whole = Auc.of(np.sum([site.tables.scores for site in net.sites.values()], axis=0))
    assert found["overall"]["auc"] == round(whole.value, 3)
    assert found["overall"]["rows"] == 1600
    assert found["sites_with_scores"] == 4
    sex = found["subgroups"][0]
    assert [cell["cell"] for cell in sex["cells"]] == ["0", "1"]
    for place, cell in enumerate(sex["cells"]):
        table = np.sum([site.tables.cells[0][place] for site in net.sites.values()], axis=0)
        assert cell["auc"] == round(Auc.of(table).value, 3)
        assert cell["rows"] % 5 == 0
    assert sex["gaps"]["auc"]["gap"] == pytest.approx(abs(sex["cells"][0]["auc"] - sex["cells"][1]["auc"]))
    assert card["metrics"] == {"told": {"auc": 0.5}, "withheld": {}}
    assert found["by_site"] == []
    assert found["membership_inference"]["loss_threshold"]["auc"] == pytest.approx(0.5, abs=0.05)
    assert found["membership_inference"]["shadow"] == {"not_run": []}


def test_what_is_judged_is_what_is_released(judged):
    net = joined(judged)
    release = verify_release(net.store.blobs[release_name(judged.plan.digest)], judged.federation, NOW).release
    models = [site.models[-1] for site in net.sites.values()]
    assert all(np.array_equal(models[0], other) for other in models)
    assert not np.array_equal(models[0], INITIAL)
    assert card_of(net, judged).content["model_sha256"] == release.model_sha256.hex()


def test_the_card_names_data_commitments_attestation_and_what_is_not_protected(judged):
    card = card_of(joined(judged), judged).content
    assert {site["dataset_commitment"] for site in card["sites"]} == {"cc" * 32}
    assert {site["attestation"]["assurance"] for site in card["sites"]} == {"none"}
    assert [site["rounds"] for site in card["sites"]] == [2] * 4
    assert card["privacy"]["terms"]["mechanism"] == "none"
    assert any("NO HARDWARE PROTECTION" in sentence for sentence in card["not_protected"])
    assert any("No privacy mechanism" in sentence for sentence in card["not_protected"])


def test_a_plan_without_evaluation_makes_no_card(world):
    net = joined(world)
    assert net.aggregator.state.value == "finished"
    assert card_name(world.plan.digest) not in net.store.blobs
    assert not any(site.evaluations for site in net.sites.values())


def test_the_released_leaf_names_the_card(judged, monkeypatch):
    said: list[leaves.Leaf] = []
    encode = leaves.encode
    monkeypatch.setattr(leaves, "encode", lambda leaf: said.append(leaf) or encode(leaf))
    net = joined(judged)
    (released,) = [leaf for leaf in said if isinstance(leaf, leaves.Released)]
    assert released.card_sha256 == card_of(net, judged).sha256
    assert leaves.parse(encode(released)) == released


def test_nothing_of_the_card_is_stored_before_its_state_is_witnessed(judged):
    """A host that stops the release cannot have one card, and after a restart another."""

    class Mute(Net):
        mute = False

        def to_aggregator(self, connection: int, frame: bytes) -> list[bytes]:
            return [] if self.mute else super().to_aggregator(connection, frame)

        def evaluate(self, connection: int, task: Any, **changes: Any) -> None:
            super().evaluate(connection, task, **changes)
            self.mute = connection == 4  # nobody cosigns what comes then

    net = joined(judged, Mute(judged))
    assert net.outcomes("evaluated")
    assert net.aggregator.state.value == "running"
    assert card_name(judged.plan.digest) not in net.store.blobs
    assert release_name(judged.plan.digest) not in net.store.blobs


# --- forged cards ---


def test_a_card_of_which_any_byte_differs_is_refused(judged):
    net = joined(judged)
    stored = net.store.blobs[card_name(judged.plan.digest)]
    release = verify_release(net.store.blobs[release_name(judged.plan.digest)], judged.federation, NOW).release
    for position in range(0, len(stored), 97):
        forged = stored[:position] + bytes([stored[position] ^ 1]) + stored[position + 1 :]
        with pytest.raises(ProtocolError):
            verify_card(forged, release)
    for cut in (stored[:-1], stored + b"\0", b""):
        with pytest.raises(ProtocolError):
            verify_card(cut, release)


def test_a_card_of_another_signer_release_plan_or_model_is_refused(judged):
    net = joined(judged)
    card = card_of(net, judged)
    release = verify_release(net.store.blobs[release_name(judged.plan.digest)], judged.federation, NOW).release
    stranger = judged.identity("aggregator")
    assert refused(verify_card, sign_card(card.document, stranger), release) is Reason.DOCUMENT_SIGNATURE
    stored = net.store.blobs[card_name(judged.plan.digest)]
    for other in ({"card_sha256": None}, {"card_sha256": bytes(32)}):
        assert refused(verify_card, stored, replace(release, **other)) is Reason.MODEL_CARD
    for other in ({"plan": bytes(32)}, {"charter": bytes(32)}, {"model_sha256": bytes(32)}, {"rounds": 1}):
        assert refused(verify_card, stored, replace(release, **other)) is Reason.MODEL_CARD
    made = encode_card({key: value for key, value in card.content.items() if key not in ("version", "plan")})
    own = replace(release, card_sha256=sha256(made), verify_key=stranger.verify_key)
    assert refused(verify_card, sign_card(made, stranger), own) is Reason.MODEL_CARD


def test_a_release_without_its_card_is_refused_and_one_with_a_card_that_the_plan_does_not_have(judged, world):
    net = joined(world)
    release = verify_release(net.store.blobs[release_name(world.plan.digest)], world.federation, NOW).release
    identity = world.identity("aggregator")
    forged = replace(release, card_sha256=bytes(32), verify_key=identity.verify_key, boot=identity.boot)
    assert refused(verify_release, sign_release(forged, identity), world.federation, NOW) is Reason.MODEL_CARD
    with_card = joined(judged)
    real = verify_release(with_card.store.blobs[release_name(judged.plan.digest)], judged.federation, NOW).release
    identity = judged.identity("aggregator")
    forged = replace(real, card_sha256=None, verify_key=identity.verify_key, boot=identity.boot)
    assert refused(verify_release, sign_release(forged, identity), judged.federation, NOW) is Reason.MODEL_CARD


def test_a_card_beyond_its_bound_is_not_made():
    with pytest.raises(DocumentError) as caught:
        encode_card({"name": "x" * (1 << 22)})
    assert caught.value.reason is Reason.TOO_LARGE


# --- disclosure ---


def test_small_cells_are_withheld_and_say_so(software_root, chip):
    given = terms(subgroups=[{"column": "sex", "values": ["0", "1", "2"]}], audit={"shadows": 0, "calls": 1})
    world = world_of(software_root, chip, given)
    net = Net(world)
    net.start()
    for place, member in enumerate(world.members):
        site = SimpleSite(world, member, has_initial=place == 0)
        site.tables = tables_of(given, place, rows=200, shares=(0.01, 0.29, 0.7))
        net.join(site)
    cells = card_of(net, world).content["evaluation"]["subgroups"][0]["cells"]
    assert cells[0] == {"cell": "0", "withheld": True}
    assert cells[1] == {"cell": "1", "withheld": True}, "else the first one is what is left of all"
    assert "auc" in cells[2]


def test_figures_of_single_sites_are_told_only_where_the_plan_says_so(software_root, chip):
    world = world_of(software_root, chip, terms(per_site=True))
    card = card_of(joined(world), world).content
    assert [cell["cell"] for cell in card["evaluation"]["by_site"]] == list(world.members)


def test_with_fewer_sites_than_the_plan_asks_for_everything_is_withheld(software_root, chip):
    world = world_of(software_root, chip, terms(min_sites=4))
    net = Net(world)
    net.start()
    for place, member in enumerate(world.members):
        site = SimpleSite(world, member, has_initial=place == 0)
        site.tables = tables_of(world.plan.document.evaluation, place) if place else None
        net.join(site)
    found = card_of(net, world).content["evaluation"]
    assert found["sites_with_scores"] == 3
    assert found["overall"] == {"cell": "all", "withheld": True}
    assert all(cell == {"cell": cell["cell"], "withheld": True} for one in found["subgroups"] for cell in one["cells"])
    assert found["membership_inference"]["loss_threshold"] == {"withheld": True}


def test_an_app_without_the_hook_still_gets_a_card_that_says_why(judged):
    net = joined(judged, tables=None)
    card = card_of(net, judged).content
    assert card["evaluation"]["not_run"] == [Reason.APP_ROWS.code]
    assert card["metrics"]["told"] == {"auc": 0.5}


def test_a_metric_that_is_withheld_says_so_and_by_which_rule(judged):
    card = card_of(joined(judged, metrics={}), judged).content
    assert card["metrics"] == {"told": {}, "withheld": {"auc": "min_sites"}}


# --- lying workers ---


class OneLies(Net):
    """The second site answers the evaluation as a test says."""

    lie: dict[str, Any]

    def evaluate(self, connection: int, task: Any, **changes: Any) -> None:
        super().evaluate(connection, task, **(self.lie if connection == 2 else {}))


def changed(tables: Tables, place: int, value: int) -> str:
    flat = np.frombuffer(tables.encode(), "<u4").copy()
    flat[place] = value
    return flat.tobytes().hex()


def lies(world: World) -> dict[str, tuple[dict[str, Any], Reason]]:
    given = world.plan.document.evaluation
    tables = tables_of(given, 1)
    encoded = tables.encode().hex()
    other = Tables(tables.scores, tables.cells, (tables.audits[0][::-1] + 1, tables.audits[1]))
    shadows = Tables(tables.scores, tables.cells, (tables.audits[0], tables.audits[0] + 1))
    return {
        "a count short": ({"tables": encoded[:-8]}, Reason.TABLES_FORM),
        "a byte long": ({"tables": encoded + "00"}, Reason.TABLES_FORM),
        "empty": ({"tables": ""}, Reason.TABLES_FORM),
        "a negative count is a huge one": ({"tables": changed(tables, 0, 2**32 - 1)}, Reason.TABLES_CONTRADICT),
        "more rows than a site may weigh": ({"tables": changed(tables, 0, 2000)}, Reason.TABLES_CONTRADICT),
        "a row that is in no cell": ({"tables": changed(tables, 3, 77)}, Reason.TABLES_CONTRADICT),
        "an audit of other rows": ({"tables": other.encode().hex()}, Reason.TABLES_CONTRADICT),
        "shadows of other rows": ({"tables": shadows.encode().hex()}, Reason.TABLES_CONTRADICT),
        "a metric that the plan does not list": ({"metrics": {"ssn": 1.0}}, Reason.METRIC),
        "a metric that is no number": ({"metrics": {"auc": "x"}}, Reason.METRIC),
        "rows beyond the plan's weight": ({"rows": 1001}, Reason.WEIGHT),
        "another round": ({"round": 1}, Reason.EVALUATION_STATE),
    }


@pytest.mark.parametrize("name", ["a count short", "a byte long", "empty", "a negative count is a huge one",
    "more rows than a site may weigh", "a row that is in no cell", "an audit of other rows", "shadows of other rows",
    "a metric that the plan does not list", "a metric that is no number", "rows beyond the plan's weight"])  # fmt: skip
def test_a_lie_costs_its_sender_the_answer_and_nobody_else_anything(judged, name):
    net = OneLies(judged)
    net.lie, reason = lies(judged)[name]
    joined(judged, net)
    card = card_of(net, judged).content
    said = {site["member"]: site["evaluated"] for site in card["sites"]}
    assert said == {"site-1": "yes", "site-2": reason.code, "site-3": "yes", "site-4": "yes"}
    assert {"member": "site-2", "outcome": "refused", "reason": reason.code} in [
        {key: fields[key] for key in ("member", "outcome", "reason") if key in fields}
        for fields in net.outcomes("not-judged")
    ]
    assert card["evaluation"]["sites_with_scores"] == 3


@pytest.mark.parametrize(
    "lie", [{"reasons": {"scores": 77_777}}, {"reasons": {"x": 815}}, {"tables": "zz"}, {"rows": -1}, {"more": 1}]
)
def test_what_no_worker_says_ends_its_session(judged, lie):
    net = OneLies(judged)
    net.lie = lie
    joined(judged, net)
    assert net.closed[2] in (Reason.MALFORMED, Reason.UNKNOWN_FIELD)


def test_an_answer_twice_or_when_none_is_asked_for_is_refused_and_changes_nothing(judged):
    class Twice(Net):
        def evaluate(self, connection: int, task: Any, **changes: Any) -> None:
            super().evaluate(connection, task, **changes)
            if connection == 1:
                super().evaluate(connection, task, tables=None, reasons={"scores": int(Reason.APP_ROWS)})

    net = joined(judged, Twice(judged))
    assert Reason.DUPLICATE in net.sites[1].receipts
    assert card_of(net, judged).content["evaluation"]["sites_with_scores"] == 4


# --- who is waited for ---


class Slow(Net):
    """One site does not answer until a test lets it."""

    slow = 2

    def evaluate(self, connection: int, task: Any, **changes: Any) -> None:
        if connection != self.slow:
            super().evaluate(connection, task, **changes)


def slow(world: World) -> Slow:
    net = Slow(world)
    joined(world, net)
    assert net.aggregator.state.value == "running"
    return net


def progress(net: Net, beat: int) -> None:
    net.say(2, {"type": "progress", "round": 2, "stage": "evaluate", "percent": 0, "beat": beat})


def test_who_works_is_waited_for_beyond_a_lease(judged):
    net = slow(judged)
    for beat in range(1, 2 * LEASE_S // STEP_S):
        progress(net, beat)
        net.pass_time(STEP_S)
    assert not net.outcomes("evaluated")
    Net.evaluate(net, 2, net.sites[2].evaluations[-1])
    assert net.aggregator.state.value == "finished"
    assert card_of(net, judged).content["evaluation"]["sites_with_scores"] == 4


def test_who_works_for_ever_is_waited_for_until_the_deadline_of_a_round(judged):
    net = slow(judged)
    round_s = judged.plan.document.deadlines.round_s
    for beat in range(1, round_s // STEP_S):
        progress(net, beat)
        net.pass_time(STEP_S)
    assert not net.outcomes("evaluated")
    net.pass_time(STEP_S)
    assert evaluated(net, judged)["site-2"] == Reason.ROUND_DEADLINE.code


def test_who_stands_still_for_a_lease_is_waited_for_no_longer(judged):
    net = slow(judged)
    for _ in range(LEASE_S // STEP_S - 1):
        net.pass_time(STEP_S)
    assert not net.outcomes("evaluated")
    net.pass_time(STEP_S)
    assert evaluated(net, judged)["site-2"] == Reason.MEMBER_SILENT.code


def evaluated(net: Net, world: World) -> dict[str, str]:
    return {site["member"]: site["evaluated"] for site in card_of(net, world).content["sites"]}


def test_who_is_gone_for_a_lease_is_waited_for_no_longer(judged):
    net = slow(judged)
    net.perform(net.aggregator.detach(2, net.now))
    assert net.outcomes("run-waits")[-1] == {"outcome": "evaluation", "waiting_for": ["site-2"]}
    for _ in range(LEASE_S // STEP_S):
        assert not net.outcomes("evaluated")
        net.pass_time(STEP_S)
    assert evaluated(net, judged)["site-2"] == Reason.LEASE_EXPIRED.code


def test_who_fails_or_is_paused_is_not_waited_for(judged):
    net = slow(judged)
    net.say(2, {"type": "failed", "round": 2, "reason": int(Reason.SITE_PAUSED)})
    assert net.aggregator.state.value == "finished"
    assert evaluated(net, judged)["site-2"] == Reason.SITE_PAUSED.code


def test_a_member_that_comes_back_is_asked_again(judged):
    net = slow(judged)
    net.perform(net.aggregator.detach(2, net.now))
    again = SimpleSite(judged, "site-2")
    again.tables = tables_of(judged.plan.document.evaluation, 1)
    net.join(again)
    assert net.aggregator.state.value == "finished"
    assert len(again.evaluations) == 1
    assert card_of(net, judged).content["evaluation"]["sites_with_scores"] == 4


def test_a_run_that_is_stopped_while_it_is_judged_releases_nothing(judged):
    net = slow(judged)
    net.perform(net.aggregator.stop(net.now))
    assert net.aggregator.state.value == "stopped"
    assert card_name(judged.plan.digest) not in net.store.blobs


def test_the_table_of_states_is_whole(judged):
    evaluating = Evaluating.__new__(Evaluating)
    for state in EvaluationState:
        for event in EvaluationEvent:
            evaluating.state = state
            if (state, event) in TABLE:
                evaluating.advance(event)
                assert evaluating.state is TABLE[state, event]
            else:
                with pytest.raises(RoundError) as caught:
                    evaluating.advance(event)
                assert caught.value.reason is Reason.EVALUATION_STATE


# --- deaths ---


class Deaths(Mortal):
    """Sites answer with tables that differ each time they are asked: a second card would differ from the first."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.cards: set[bytes] = set()
        self.asked = 0
        write = self.store.write

        def writing(blob: bytes, size: int, pieces: Any) -> None:
            write(blob, size, pieces)
            if blob == card_name(world.plan.digest):
                self.cards.add(unpack(self.store.blobs[blob], "cloister/signed-model-card/v1", 2)[0])

        self.store.write = writing  # type: ignore[method-assign]

    def evaluate(self, connection: int, task: Any, **changes: Any) -> None:
        self.asked += 1
        self.sites[connection].tables = tables_of(self.world.plan.document.evaluation, self.asked)
        super().evaluate(connection, task, **changes)


def test_an_aggregator_that_dies_at_any_step_of_the_end_is_replaced_and_tells_one_card_only(judged):
    whole = Deaths(judged)
    steps = 0
    perform_one = whole.perform_one

    def counting(effect: Any) -> None:
        nonlocal steps
        steps += 1
        if not whole.asked:
            whole.first = steps
        perform_one(effect)

    whole.perform_one = counting  # type: ignore[method-assign]
    begun(judged, whole)
    again = 0
    for step in range(whole.first, steps, 2):
        net = Deaths(judged)
        if crash_at(net, step, lambda net=net: begun(judged, net)):
            go_on(net)
        assert net.outcomes("run-ended"), step
        assert card_of(net, judged).content["evaluation"]["sites_with_scores"] == 4
        assert len(net.cards) == 1, step
        again += net.asked > 4
    assert again, "some died before the card was witnessed"
