"""``cloister simulate scenario``. Trust zone: the developer's machine."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from console.output import Report
from simulations.commands.telling import keep, show_table
from simulations.progress import shown
from simulations.scenarios.scenario import NAMES, Scenario, Wishes, find
from simulations.table import Table


def list_scenarios(report: Report) -> None:
    """What there is, and how long each takes."""
    found = [find(name) for name in NAMES]
    show_table(
        report, Table("", ("scenario", "asks", "takes"), tuple((one.name, one.asks, one.takes) for one in found))
    )
    report.data["scenarios"] = [{"name": one.name, "asks": one.asks, "takes": one.takes} for one in found]


def run_scenario(report: Report, name: str, out: Path | None, **wished: Any) -> None:
    """Run one and tell; with ``out`` its figure, table and points are kept there.

    Raises:
        ValueError, UserError, OSError: in one sentence, what does not fit.
    """
    scenario = find(name)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cloister-scenario-")))
        told = stack.enter_context(shown(scenario.name))
        outcome = scenario.run(Wishes(folder, told, **wished))
    report.say(scenario.asks)
    show_table(report, outcome.table)
    report.say(*outcome.says)
    report.data |= {"scenario": scenario.name, "says": list(outcome.says), **outcome.table.to_json()}
    if out is not None:
        keep(report, out, outcome.table, outcome.picture(), {"scenario": scenario.name, **outcome.settings})
    else:
        report.say(f"For the figure: cloister simulate scenario {scenario.name} --out FOLDER")


def command_of(scenario: Scenario) -> str:
    """How a person runs it."""
    return f"cloister simulate scenario {scenario.name} --out ./{scenario.name}"
