"""``cloister doctor`` about a coordinator's second port: reached, not reached, or not there."""

from __future__ import annotations

from collections.abc import Callable

from console.finding import Severity
from console.reach_checks import blob_port
from tests.blob_port.servers import Coordinator
from worker.grpc_channel import HostAddress

Make = Callable[..., Coordinator]
NOBODY_LISTENS = 1


def told(coordinator: Coordinator) -> list[tuple[Severity, bool]]:
    """How serious each finding is, and whether it says what to do."""
    address = HostAddress(coordinator.target, coordinator.ca_pem)
    return [(finding.severity, bool(finding.advice)) for finding in blob_port(address)]


def test_a_port_that_is_reached_is_good_and_one_that_is_not_is_a_warning_with_advice(make: Make) -> None:
    coordinator = make()
    assert told(coordinator) == [(Severity.OK, False)]
    coordinator.first.announced = NOBODY_LISTENS
    assert told(coordinator) == [(Severity.WARNING, True)]


def test_nothing_is_said_of_a_coordinator_without_the_port_or_of_one_of_before(make: Make) -> None:
    coordinator = make()
    for announced in (0, None):
        coordinator.first.announced = announced
        assert told(coordinator) == []
