"""A table shows the same in a notebook, a terminal and JSON, and what stands in it steers neither."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from simulations.table import Table, show

TABLE = Table("what <came>", ("who", "score", "of"), (("a<b>", 0.12345, 3), ("[red]c", None, 12_000)), ("One & two.",))


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.98765, "0.988"),
        (12.3456, "12.35"),
        (1234.5, "1234"),
        (123456.0, "123,456"),
        (1.5e-7, "1.50e-07"),
        (-0.25, "-0.250"),
        (math.nan, "nan"),
        (12_345, "12,345"),
        (True, "yes"),
        ("text", "text"),
    ],
)
def test_a_cell_is_shown_with_as_many_digits_as_one_can_read(cell: object, shown: str) -> None:
    assert show(cell) == shown  # type: ignore[arg-type]


def test_html_holds_every_cell_and_no_markup_of_a_cell() -> None:
    page = TABLE._repr_html_()
    assert "a&lt;b&gt;" in page
    assert "<b>a" not in page
    assert "One &amp; two." in page
    assert page.count("<tr>") == 3


def test_a_terminal_shows_cells_as_they_are() -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(TABLE)
    assert "[red]c" in out.getvalue()
    assert "12,000" in out.getvalue()


def test_plain_text_has_aligned_columns() -> None:
    lines = str(TABLE).splitlines()
    assert lines[0] == "what <came>"
    assert len({len(line) for line in lines[1:4]}) == 1


def test_json_has_no_number_that_json_has_not() -> None:
    table = Table("t", ("x",), ((math.inf,), (1.5,)))
    assert table.to_json()["rows"] == [{"x": None}, {"x": 1.5}]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        Table("t", ("x", "y"), ((1,),))
