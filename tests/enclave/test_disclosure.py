"""Which metrics leave: by the list, over enough sites of enough rows; and what does not leave says so."""

from __future__ import annotations

from coordinator.enclave.disclosure import Report, disclosed
from tests.world import Net, SimpleSite
from trusted.documents.terms import MetricRule

RULE = MetricRule("auc", 2, 2, 30)


def reports(*rows: int, name: str = "auc") -> list[Report]:
    return [Report(count, {name: 0.5 + place / 10}) for place, count in enumerate(rows)]


def test_reports_of_enough_rows_are_averaged_by_their_rows():
    found = disclosed([RULE], reports(30, 90))
    assert found.told == {"auc": round((30 * 0.5 + 90 * 0.6) / 120, 2)}
    assert found.withheld == {}


def test_a_report_of_one_row_too_few_does_not_count():
    found = disclosed([RULE], reports(29, 90, 30))
    assert found.told == {"auc": round((90 * 0.6 + 30 * 0.7) / 120, 2)}


def test_too_few_reports_of_enough_rows_are_withheld_for_their_rows():
    found = disclosed([RULE], reports(29, 90))
    assert (found.told, found.withheld) == ({}, {"auc": "min_rows"})
    assert found.refused == ["auc:min_rows"]


def test_too_few_reports_are_withheld_for_their_sites():
    for given in ([], reports(90), reports(90, 90, name="loss")):
        found = disclosed([RULE], given)
        assert (found.told, found.withheld) == ({}, {"auc": "min_sites"})


def test_without_min_rows_any_report_counts():
    assert disclosed([MetricRule("auc", 2, 2)], reports(1, 1)).told == {"auc": 0.55}


def test_a_round_says_which_metric_is_withheld_and_by_which_rule(world):
    net = Net(world)
    net.start()
    for place, member in enumerate(world.members):
        site = SimpleSite(world, member, has_initial=place == 0)
        site.metrics = {"auc": 0.7} if place == 0 else {}
        net.join(site)
    for fields in net.outcomes("round-committed"):
        assert fields["metrics"] == {}
        assert fields["withheld"] == ["auc:min_sites"]
