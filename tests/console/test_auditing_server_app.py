"""``cloister run log`` of a run whose server the app brought: the log says so, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from console.output import Report
from console.run_log import show_log
from softtee.chip import Chip, SoftwareRoot
from tests.console.test_run_log import Given
from tests.enclave.recoveries import begun
from tests.enclave.server_apps import fed_avg, running, server_of, server_world
from tests.enclave.test_server_app_strategies import client_with
from tests.world import World
from trusted.errors import LedgerError, Reason
from trusted.ledger import leaves
from trusted.ledger.leaves import Leaf


@pytest.fixture(scope="module")
def world(software_root: SoftwareRoot, chip: Chip) -> World:
    return server_world(software_root, chip)


@pytest.fixture
def given(world: World) -> Given:
    return Given.of(running(world, server_of(fed_avg, rounds=1), client_with()))


def test_the_log_names_what_the_trusted_code_base_is_larger_by(
    given: Given, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    log = given.audit()
    assert log.server_app == leaves.ServerApp(world.plan.document.app.bundle_sha256, "tests:app", "1.41.0")
    assert log.cohorts == 0
    report = Report(json_output=False)
    show_log(report, log)
    assert "LARGER by the app" in capsys.readouterr().out
    assert report.data["trusted_code_base_enlarged_by"]["component"] == "tests:app"


Alter = Callable[[list[Leaf]], list[Leaf]]


def without(said: list[Leaf]) -> list[Leaf]:
    return [leaf for leaf in said if not isinstance(leaf, leaves.ServerApp)]


def late(said: list[Leaf]) -> list[Leaf]:
    place = next(place for place, leaf in enumerate(said) if isinstance(leaf, leaves.Opened))
    moved = [leaf for leaf in said if isinstance(leaf, leaves.ServerApp)]
    return [*without(said)[:place], *moved, *without(said)[place:]]


def other(said: list[Leaf]) -> list[Leaf]:
    return [replace(leaf, bundle_sha256=b"\1" * 32) if isinstance(leaf, leaves.ServerApp) else leaf for leaf in said]


@pytest.mark.parametrize("alter", [without, late, other])
def test_a_log_that_does_not_say_whose_server_asked_is_refused(given: Given, alter: Alter) -> None:
    given.forge(alter)
    with pytest.raises(LedgerError) as caught:
        given.audit()
    assert caught.value.reason is Reason.LEDGER_LEAF
    assert caught.value.detail.startswith("server-app:")


def test_code_of_an_app_in_the_aggregator_of_another_plan_is_refused(software_root: SoftwareRoot, chip: Chip) -> None:
    given = Given.of(begun(World(software_root, chip)))
    given.forge(lambda said: [said[0], leaves.ServerApp(bytes(32), "a:b", "1.41.0"), *said[1:]])
    with pytest.raises(LedgerError) as caught:
        given.audit()
    assert caught.value.detail.startswith("server-app:")
