"""Every lie gains something where it is believed, and nothing between Cloister's own peers."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from simulations.hosts.believing import Believing, honest
from simulations.hosts.consortium import INITIAL, Consortium
from simulations.hosts.lie import AGGREGATOR, Lie, Told, begun, ended
from simulations.hosts.lies import LIES
from trusted.errors import Reason

STANDS_STILL = {"old disk", "old records under new names", "a victim alone"}
NOBODY_IS_LOST = {"cohort drawn again", "replay", "reorder", "impostor"}


@pytest.fixture(scope="module")
def told(software_root, chip):
    world = Consortium(software_root, chip)

    @cache
    def tell(name: str) -> Told:
        return LIES[name].told(world)

    return tell


def mean_of(counted: tuple[frozenset[str], ...]) -> np.ndarray:
    """The model that holds these contributions, by the sites' formula: a number of its own for each, by its weight."""
    model = INITIAL.astype(np.float64)
    for members in counted:
        places = [int(member[-1]) for member in members]
        model = model + np.average([0.25 * place for place in places], weights=places)
    return model.astype(np.float32)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_every_lie_gains_something_where_it_is_believed(lie: Lie) -> None:
    with np.errstate(all="ignore"):
        gained = np.abs(lie.believed(Believing()) - honest()).max()
    assert not gained < 0.05  # of 2.5 that the model moves; not finite is a gain as well


def test_the_server_that_believes_is_right_where_nobody_lies() -> None:
    targets = np.mean([1, 2, 3, 4])
    np.testing.assert_allclose(honest(), targets * (1 - 0.5**2), rtol=1e-6)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_every_lie_is_refused_by_its_reason_or_has_nothing_to_refuse(lie: Lie, told) -> None:
    assert told(lie.name).reasons == lie.reasons


@pytest.mark.parametrize("name", sorted(set(LIES) - STANDS_STILL))
def test_the_released_model_is_the_mean_of_the_contributions_that_it_names_and_of_nothing_else(name, told) -> None:
    found = told(name)
    np.testing.assert_allclose(found.model, mean_of(found.counted), atol=1e-6)
    assert len(found.counted) == 2


@pytest.mark.parametrize("name", sorted(set(LIES) - STANDS_STILL - {"cohort drawn again"}))
def test_a_lie_costs_a_contribution_or_none_and_never_another_members(name, told) -> None:
    """The host had it in its hands: what it lost or altered is not there, and all else is."""
    members, counted = {"site-1", "site-2", "site-3", "site-4"}, told(name).counted
    lost = {"site-1"} if name == "swapped after the check" else {"site-4"}
    if name == "fork":
        lost = {"site-1"}  # which the host kept from the aggregator that goes on
    assert all(members - lost <= counts for counts in counted)
    if name in NOBODY_IS_LOST:
        assert counted == (members, members)


@pytest.mark.parametrize("name", sorted(STANDS_STILL))
def test_where_nothing_right_can_be_done_nothing_is_done(name, told) -> None:
    assert (told(name).model, told(name).counted) == (None, ())


def test_workers_notice_what_is_served_and_forked_and_the_aggregator_the_rest(told) -> None:
    assert told("altered model").noticed.keys() == {"site-4"}
    assert {"site-2", "site-3", "site-4"} <= told("fork").noticed.keys()
    for name in ("old disk", "replay", "drop", "delay", "reorder", "altered update", "old update", "impostor"):
        assert AGGREGATOR in told(name).noticed, name


def test_a_site_whose_update_was_dropped_sees_that_no_log_holds_it(software_root, chip) -> None:
    host = begun(Consortium(software_root, chip))
    host.attack_up = lambda connection, frame: [] if connection == 4 else [frame]
    host.contribute_all((4,))
    host.contribute_all((1, 2, 3))
    ended(host)
    assert [site.included == [] for site in host.sites.values()] == [False, False, False, True]


def test_without_a_lie_everybody_counts_and_nothing_is_noticed(software_root, chip) -> None:
    found = Told.by(ended(begun(Consortium(software_root, chip))))
    assert found.noticed == {}
    assert found.counted == (frozenset({"site-1", "site-2", "site-3", "site-4"}),) * 2
    np.testing.assert_allclose(found.model, mean_of(found.counted), atol=1e-6)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_every_lie_says_what_it_tries_gains_and_comes_to_in_a_sentence(lie: Lie) -> None:
    for said in (lie.tries, lie.gains, lie.stopped):
        assert 20 < len(said) < 120
        assert not said.endswith(".")
    assert all(isinstance(reason, Reason) for reason in lie.reasons)


def test_a_consortium_of_its_own_is_founded_in_a_line() -> None:
    world = Consortium.found(rounds=1)
    assert world.plan.document.rounds == 1
    assert Told.by(ended(begun(world))).counted == (frozenset(world.members),)
