"""A result's table has what there is to say, and of a long simulation its two ends."""

from __future__ import annotations

from dataclasses import replace

from simulations.result import Ending
from tests.simulations.results import result, row


def test_every_round_has_a_row_and_every_metric_a_column() -> None:
    table = result(3).table()
    assert len(table.rows) == 5
    assert table.headings == (
        *("round", "accuracy", "loss", "train-loss", "ε", "counted", "MB", "virtual s", "wall s"),
    )
    assert table.rows[0][6] == 5.0
    assert table.rows[0][5] == "2/3"
    assert table.rows[3][1] is None
    assert "Did not count: 5 ROUND_DEADLINE." in table.notes
    assert "1 round(s) came to nothing: 4 (COHORT_MINIMUM)." in table.notes


def test_what_no_round_has_has_no_column() -> None:
    rounds = (row(1, epsilon=None, lost={}, virtual_s=0.0, reported={}),)
    bare = replace(result(1), rounds=rounds, ending=Ending.COMPLETE).table()
    assert bare.headings == ("round", "accuracy", "loss", "counted", "MB", "wall s")
    assert bare.notes == ()


def test_a_long_simulation_shows_both_ends() -> None:
    table = result(1000).table()
    assert len(table.rows) == 21
    assert table.rows[9][0] == 10
    assert table.rows[10][0] == "…"
    assert table.rows[-1][0] == 1002


def test_an_early_end_is_said() -> None:
    assert any("budget exhausted" in note for note in result().table().notes)


def test_a_notebook_shows_a_result_as_a_table() -> None:
    assert result()._repr_html_().count("<tr>") == 6


def test_the_final_metrics_are_those_of_the_last_evaluated_round() -> None:
    assert result().final["accuracy"] == 0.9
    assert result(rounds=1).final["accuracy"] == 0.9
