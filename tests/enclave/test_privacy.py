"""Member clipping in whole runs: what is paid, what is refused, and what a lying worker or a death can move."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coordinator.enclave import round_loop
from coordinator.enclave.fold import fold_noisily
from coordinator.enclave.privacy.accountant import Accountant
from tests.enclave.evaluations import COLUMNS, card_of, tables_of, terms
from tests.enclave.recoveries import Mortal, begun, crash_at, go_on, steps_of
from tests.enclave.runs import released_model
from tests.world import INITIAL, LAYOUT, MemoryStore, Net, SimpleSite, World
from trusted.documents.terms import Aggregation, DatasetContract, Privacy
from trusted.errors import Reason
from trusted.lattice import Lattice
from trusted.ledger import leaves
from trusted.ledger.leaves import Leaf
from trusted.ledger.segments import read_log

CLIP = 0.5
SIGMA = 2.0
DELTA = 1e-5
ALIKE = Aggregation.read({"rule": "weighted-mean", "max_weight": 1})


def clipping(epsilon: float = 20.0, sigma: float = SIGMA) -> Privacy:
    return Privacy.read(
        {
            "mechanism": "member-clipping",
            "clip_norm": CLIP,
            "noise_multiplier": sigma,
            "epsilon": epsilon,
            "delta": DELTA,
        }
    )


def private(software_root: Any, chip: Any, **changes: Any) -> World:
    return World(
        software_root, chip, plan_changes={"aggregation": ALIKE, "privacy": clipping(), "metrics": ()} | changes
    )


@pytest.fixture(scope="module")
def world(software_root, chip):
    return private(software_root, chip)


class Alike(Net):
    """Sites that weigh the same and send what ``deltas`` says."""

    deltas: dict[str, np.ndarray] = {}

    def join(self, site: SimpleSite) -> int:
        site.weight, site.metrics = 1, {}
        if site.member in self.deltas:
            site.delta = lambda model: self.deltas[site.member]  # type: ignore[method-assign]
        return super().join(site)


class Lasting(Mortal):
    """The same, whose aggregator may die."""

    def join(self, site: SimpleSite) -> int:
        site.weight, site.metrics = 1, {}
        return super().join(site)


def run(world: World, **deltas: np.ndarray) -> Alike:
    net = Alike(world)
    net.deltas = {member.replace("_", "-"): delta for member, delta in deltas.items()}
    net.start()
    for place, member in enumerate(world.members):
        net.join(SimpleSite(world, member, has_initial=place == 0))
    return net


def logged(net: Net) -> list[Leaf]:
    """What the log says, from its stored segments up to the newest that was told."""
    told = net.outcomes("checkpoint")[-1]
    head = leaves_head(told)
    log = read_log(net.world.plan.digest, head, lambda name: net.store.blobs.get(name, b""))
    return [leaves.parse(data) for data in log.leaves]


def leaves_head(told: dict[str, Any]) -> Any:
    from trusted.ledger.checkpoint import TreeHead

    return TreeHead(told["size"], bytes.fromhex(told["root"]))


def spends(net: Net) -> list[dict[str, float]]:
    found = [leaf for leaf in logged(net) if isinstance(leaf, leaves.Spent)]
    return [{name: float(amount) for name, amount in leaf.cumulative} for leaf in found]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The real fold, with the key it was given, and beside it the clipped sums that its noise lies on."""
    steps: list[np.ndarray] = []

    def folding(contributions: Any, store: Any, *, noise: Any, advance: Any, jobs: Any) -> None:
        silent = replace(noise, noise_multiplier=1e-30)
        fold_noisily(contributions, store, noise=silent, advance=advance, jobs=jobs)
        steps.append((advance.after.model.astype("f8") - advance.before.model) * len(contributions))
        fold_noisily(contributions, store, noise=noise, advance=advance, jobs=jobs)

    monkeypatch.setattr(round_loop, "fold_noisily", folding)
    return steps


def test_each_round_is_paid_before_it_is_committed_and_the_log_names_the_unit(world):
    net = run(world)
    assert net.aggregator.state.value == "finished"
    said = logged(net)
    kinds = [leaf.KIND for leaf in said if leaf.KIND in ("closed", "spent", "state", "committed", "released")]
    assert kinds.count("spent") == 2
    for place, kind in enumerate(kinds):
        if kind == "spent":  # in the very checkpoint that closes the round, and before anything of it leaves
            assert kinds[place - 1 : place + 2] == ["closed", "spent", "state"]
    accountant = Accountant(clipping().member_clipping, DELTA)
    assert [leaf["epsilon"] for leaf in spends(net)] == pytest.approx([accountant.epsilon(1), accountant.epsilon(2)])
    assert {leaf.mechanism for leaf in said if isinstance(leaf, leaves.Spent)} == {"member-clipping, unit member"}
    assert [told["metrics"]["epsilon"] for told in net.outcomes("privacy-spent")] == [
        accountant.epsilon(1),
        accountant.epsilon(2),
    ]


def test_the_result_has_noise_of_the_size_that_the_plan_says(world, quiet):
    net = run(world)
    step = released_model(world, net, "site-1").astype("f8") - INITIAL
    noise = step * len(world.members) - sum(quiet)
    # Two rounds of 1007 numbers: the deviation is within 10 % but for one run in ten thousand (chi-square, 4.5 sigma).
    assert noise.std() == pytest.approx(np.sqrt(2) * SIGMA * CLIP, rel=0.1)


def test_a_worker_that_does_not_clip_moves_the_sum_by_no_more_than_the_clip(world, quiet):
    nothing = np.zeros(LAYOUT.elements, "f4")
    names = [member.replace("-", "_") for member in world.members]
    for size in (1e-3, CLIP, 1e6, 1e37):
        quiet.clear()
        liar = np.full(LAYOUT.elements, size, "f4")
        run(world, **dict.fromkeys(names, nothing) | {"site_3": liar})
        assert len(quiet) == 2
        for moved in quiet:
            assert np.linalg.norm(moved) <= CLIP * (1 + 1e-5)  # of the float32 model that it was read from
            assert np.linalg.norm(moved) >= min(CLIP * 0.998, size)


def test_an_honest_update_within_the_clip_is_not_changed_but_for_rounding(world, quiet):
    nothing = np.zeros(LAYOUT.elements, "f4")
    names = [member.replace("-", "_") for member in world.members]
    honest = np.linspace(-0.01, 0.01, LAYOUT.elements).astype("f4")
    run(world, **dict.fromkeys(names, nothing) | {"site_2": honest})
    step = Lattice(CLIP, LAYOUT.elements).step
    assert np.abs(quiet[0] - honest).max() <= step / 2 + 1e-6


def test_an_update_with_two_faces_is_found_out_and_its_sender_loses_it(world):
    """Measured short, folded long: the host serves another blob under the same key for the second pass."""
    short, long = np.full(LAYOUT.elements, 1e-4, "f4"), np.full(LAYOUT.elements, 10.0, "f4")

    class TwoFaces(MemoryStore):
        faces: dict[bytes, list[bytes]] = {}
        reads: dict[bytes, int] = {}

        def read(self, blob: bytes, offset: int, size_bytes: int) -> bytes:
            if blob in self.faces:
                self.reads[blob] = self.reads.get(blob, 0) + 1
                # once when it arrives, once when it is measured, and then to be folded
                return self.faces[blob][self.reads[blob] > 2][offset : offset + size_bytes]
            return super().read(blob, offset, size_bytes)

    class Liar(Alike):
        def contribute(self, connection: int, task: Any, **changes: Any) -> dict[str, Any]:
            site = self.sites[connection]
            if site.member != "site-4" or task.round != 1:
                return super().contribute(connection, task, **changes)
            return two_faced(self, connection, task, (short, long))

    net = Liar(world, TwoFaces())
    net.start()
    for place, member in enumerate(world.members):
        net.join(SimpleSite(world, member, has_initial=place == 0))
    closed = [leaf for leaf in logged(net) if isinstance(leaf, leaves.Closed) and leaf.round == 1]
    assert [("site-4" in leaf.counted) for leaf in closed] == [True, False]
    assert closed[1].lost[0].reason is Reason.UPDATE_NORM
    assert [leaf["rounds"] for leaf in spends(net)] == [1, 2, 3]  # closed twice, paid twice


def two_faced(net: Net, connection: int, task: Any, faces: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Two blobs of one prefix: FLOE's own header fixes IV and key, so a sender that keeps both can seal twice."""
    import trusted.floe as floe
    from trusted.blob import ContentKey, seal
    from trusted.wire import sha256

    site, key, original = net.sites[connection], ContentKey.generate(), floe.token_bytes
    sealed = []
    floe.token_bytes = lambda size: b"\x07" * size  # type: ignore[assignment]
    try:
        for face in faces:
            pieces = seal(task.upload_header, [face.tobytes()], key=key, signing_key=site.identity.signing_key)
            sealed.append(b"".join(pieces))
    finally:
        floe.token_bytes = original
    net.store.faces[task.upload] = sealed  # type: ignore[attr-defined]
    prefix = sha256(sealed[0][: task.upload_header.prefix_bytes]).hex()
    message = {
        "type": "update",
        "round": task.round,
        "blob": task.upload.hex(),
        "key": key.secret.hex(),
        "prefix_sha256": prefix,
        "weight": 1,
        "metrics": {},
    }
    net.say(connection, message)
    return message


def test_a_run_whose_budget_is_spent_ends_with_what_it_has_and_says_so(software_root, chip):
    accountant = Accountant(clipping().member_clipping, DELTA)
    budget = (accountant.epsilon(2) + accountant.epsilon(3)) / 2
    world = private(software_root, chip, rounds=10, privacy=clipping(epsilon=budget))
    net = run(world)
    assert net.aggregator.state.value == "finished"
    assert len(net.outcomes("round-committed")) == 2
    assert net.outcomes("budget-exhausted") == [{"outcome": "2", "reason": Reason.BUDGET_EXHAUSTED.code}]
    assert spends(net)[-1]["epsilon"] <= budget
    assert released_model(world, net, "site-1").shape == INITIAL.shape


def test_a_budget_that_pays_for_no_round_opens_none(software_root, chip):
    world = private(software_root, chip, privacy=clipping(epsilon=0.5))
    net = run(world)
    assert net.aggregator.state.value == "abandoned"
    assert net.outcomes("round-opened") == []
    assert net.outcomes("budget-exhausted")[0]["outcome"] == "0"


def test_a_round_that_cannot_be_paid_for_twice_does_not_close_twice(software_root, chip):
    accountant = Accountant(clipping().member_clipping, DELTA)
    world = private(software_root, chip, privacy=clipping(epsilon=accountant.epsilon(1) + 1e-6))

    class Forgetful(MemoryStore):
        reads = 0

        def read(self, blob: bytes, offset: int, size_bytes: int) -> bytes:
            if blob == getattr(self, "victim", None):
                self.reads += 1
                if self.reads > 1:
                    return b""
            return super().read(blob, offset, size_bytes)

    class Host(Alike):
        def contribute(self, connection: int, task: Any, **changes: Any) -> dict[str, Any]:
            if self.sites[connection].member == "site-2":
                self.store.victim = task.upload  # type: ignore[attr-defined]
            return super().contribute(connection, task, **changes)

    net = Host(world, Forgetful())
    net.start()
    for place, member in enumerate(world.members):
        net.join(SimpleSite(world, member, has_initial=place == 0))
    assert net.outcomes("round-abandoned")[0]["reason"] == Reason.BUDGET_EXHAUSTED.code
    assert net.outcomes("round-committed") == []
    assert net.aggregator.state.value == "abandoned"


def test_death_at_any_step_lowers_no_spend_and_draws_no_other_noise_for_the_same_round(world, monkeypatch):
    made: dict[tuple[int, tuple[Any, ...]], set[bytes]] = {}
    folds = 0

    def folding(contributions: Any, store: Any, *, noise: Any, advance: Any, jobs: Any) -> None:
        nonlocal folds
        folds += 1
        fold_noisily(contributions, store, noise=noise, advance=advance, jobs=jobs)
        counted = tuple(sorted((entry.member, entry.prefix_sha256) for entry in contributions))
        made.setdefault((advance.number, counted), set()).add(advance.after.model.tobytes())

    monkeypatch.setattr(round_loop, "fold_noisily", folding)
    total = steps_of(world, Lasting(world))
    for step in range(1, total, 9):
        net = Lasting(world)
        if crash_at(net, step, lambda net=net: begun(world, net)) and len(net.by_member) == len(world.members):
            go_on(net)
        assert net.outcomes("run-ended"), step
        paid = [leaf["epsilon"] for leaf in spends(net)]
        assert paid == sorted(paid), step
        assert len(paid) >= world.plan.document.rounds
    assert folds > len(made)  # some rounds were folded by two aggregators
    assert {len(models) for models in made.values()} == {1}


def test_other_contributions_have_other_noise(world):
    """Else the difference of a round that closed twice would be somebody's update."""
    from coordinator.enclave.privacy.budget import Spending
    from tests.enclave.test_record import counted
    from trusted.exchange import Exchanged

    spending = Spending.begin(world.plan.document.privacy, world.plan.digest)
    exchanged = Exchanged.of(world.plan)
    first, second = (counted(exchanged, member).contribution for member in ("site-1", "site-2"))
    keys = [
        spending.noise(number, entries).key.secret
        for number, entries in ((1, [first, second]), (1, [first]), (1, [replace(first, prefix_sha256=b"\1" * 32)]))
    ]
    keys.append(spending.noise(2, [first]).key.secret)
    assert len(set(keys)) == 4
    assert spending.noise(1, [second, first]).key.secret == keys[0]
    again = Spending.begin(world.plan.document.privacy, world.plan.digest)
    assert again.noise(1, [first]).key.secret != keys[1]


def dp_sgd_world(software_root: Any, chip: Any) -> World:
    terms = {
        "mechanism": "dp-sgd",
        "unit": "record",
        "max_grad_norm": 1.0,
        "noise_multiplier": 2.0,
        "sample_rate": 0.1,
        "max_steps": 5,
        "epsilon": 4.0,
        "delta": DELTA,
    }
    return private(software_root, chip, privacy=Privacy.read(terms))


@pytest.mark.parametrize("said", [None, 0, 6])
def test_an_update_under_dp_sgd_that_does_not_say_what_it_cost_is_refused(software_root, chip, said):
    world = dp_sgd_world(software_root, chip)

    class Saying(Alike):
        def contribute(self, connection: int, task: Any, **changes: Any) -> dict[str, Any]:
            steps = said if self.sites[connection].member == "site-4" else 5
            return super().contribute(connection, task, **({} if steps is None else {"private_steps": steps}))

    net = Saying(world)
    net.start()
    for place, member in enumerate(world.members):
        net.join(SimpleSite(world, member, has_initial=place == 0))
    by_member = {site.member: site.receipts for site in net.sites.values()}
    assert by_member["site-4"] == [Reason.PRIVACY_REPORT] * 2
    assert by_member["site-1"] == [None, None]
    assert spends(net)[-1]["rounds"] == 2
    assert {leaf.mechanism for leaf in logged(net) if isinstance(leaf, leaves.Spent)} == {"dp-sgd, unit record"}


def test_steps_that_no_plan_asked_for_are_refused(world):
    class Saying(Alike):
        def contribute(self, connection: int, task: Any, **changes: Any) -> dict[str, Any]:
            extra = {"private_steps": 1} if self.sites[connection].member == "site-4" else {}
            return super().contribute(connection, task, **extra)

    net = Saying(world)
    net.start()
    for place, member in enumerate(world.members):
        net.join(SimpleSite(world, member, has_initial=place == 0))
    assert next(site.receipts for site in net.sites.values() if site.member == "site-4") == [Reason.PRIVACY_REPORT] * 2


def test_the_card_of_a_run_that_paid_says_what_the_log_says_and_sites_answer_whatever_their_rows(software_root, chip):
    evaluation = {"evaluation": terms(), "dataset": DatasetContract(1, COLUMNS)}
    judged = private(software_root, chip, **evaluation)
    net = Alike(judged)
    net.start()
    for place, member in enumerate(judged.members):
        site = SimpleSite(judged, member, has_initial=place == 0)
        site.tables = tables_of(terms(), place)  # of 400 rows each, where every site weighs 1
        net.join(site)
    card = card_of(net, judged).content
    paid = [leaf for leaf in logged(net) if isinstance(leaf, leaves.Spent)][-1]
    assert card["privacy"]["spent"] == paid.to_json()
    assert "unit member" in card["privacy"]["spent"]["mechanism"]
    assert card["evaluation"]["sites_with_scores"] == len(judged.members)
    assert any("outside the privacy budget" in line for line in card["not_protected"])
