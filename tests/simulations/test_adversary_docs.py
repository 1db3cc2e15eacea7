"""docs/simulation-adversaries.md names all that there is, and nothing that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simulations import behaviours, partitions
from simulations.hosts.lies import LIES
from tests.simulations.attacked import ATTACKS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "simulation-adversaries.md").read_text()


@pytest.mark.parametrize("name", sorted((set(behaviours.__all__) | set(partitions.__all__)) - {"Holdings"}))
def test_every_function_is_named(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_every_lie_has_its_row_as_it_says_itself() -> None:
    for lie in LIES.values():
        reasons = ", ".join(f"{reason.code} {reason.name}" for reason in sorted(lie.reasons)) or "–"
        assert f"| {lie.name} | {lie.tries} | {lie.gains} | {lie.stopped} | {reasons} |" in PAGE


def test_every_attack_has_its_row_and_no_row_has_another() -> None:
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \|", PAGE, re.MULTILINE)
    assert [(name, int(rounds)) for name, rounds in rows if name != "none"] == [
        (attack.name, attack.rounds) for attack in ATTACKS
    ]


def test_a_cell_is_bold_where_a_rule_is_said_not_to_hold() -> None:
    header = re.search(r"^\| attack \| rounds \| (.+) \|$", PAGE, re.MULTILINE)
    assert header is not None
    columns = header[1].split(" | ")
    for attack in ATTACKS:
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| {attack.name} | {attack.rounds} |"))
        bold = {name for name, cell in zip(columns, row.split(" | ")[2:], strict=True) if cell.startswith("**")}
        assert bold >= set(attack.fails)
        assert not bold & set(attack.holds)
