"""``cloister simulate capacity``. Trust zone: the developer's machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from console.output import Report
from simulations.capacity.costs import Costs
from simulations.capacity.error import ERROR
from simulations.capacity.prediction import Federation, Prediction, predict
from simulations.commands.telling import show_table
from simulations.progress import shown
from simulations.table import Table


@dataclass(frozen=True, slots=True)
class Files:
    """Costs that were measured before, and where to keep those that are measured now."""

    costs: Path | None
    save: Path | None


def tell(report: Report, planned: Federation, files: Files) -> None:
    """Measure or read the costs, predict and tell.

    Raises:
        UserError, NotMeasured, OSError: there are no costs.
    """
    if files.costs is not None:
        costs = Costs.read(files.costs)
    else:
        with shown("Measuring this machine", total=3) as told:
            steps = iter(range(3))
            costs = Costs.measure(told=lambda what: told(next(steps), 3, what))
    if files.save is not None:
        costs.save(files.save)
    found = predict(planned, costs)
    for table in tables(planned, found, costs):
        show_table(report, table)
    report.say(f"A round takes about {length(found.round_s)}. What it waits for most: {found.bottleneck}.")
    report.say(*found.notes, ERROR.says)
    report.data |= found.to_json() | {"costs": costs.to_json(), "error": ERROR.to_json()}


def tables(planned: Federation, found: Prediction, costs: Costs) -> list[Table]:
    """What it takes: time, memory, traffic; and what it stands on."""
    title = (
        f"{planned.sites:,} sites, {planned.model_bytes / 1e6:,.6g} MB, on costs of {costs.processor or 'a processor'}"
    )
    phases = tuple((name, length(seconds)) for name, seconds in found.phases_s.items())
    busy = tuple((f"  {name} alone", length(seconds)) for name, seconds in found.busy_s.items())
    memory = tuple((name, size(megabytes)) for name, megabytes in found.memory_mb.items())
    traffic = tuple((name, size(megabytes)) for name, megabytes in found.traffic_mb.items())
    collected = (*phases[:2], *busy, *phases[2:], ("a round", length(found.round_s)))
    return [
        Table(title, ("phase", "takes"), collected),
        Table("", ("memory and disk", "needs"), memory),
        Table("", ("traffic of a round", "moves"), traffic),
    ]


def length(seconds: float) -> str:
    """In the unit that one would say."""
    for unit, least in (("days", 172_800), ("h", 7_200), ("min", 120)):
        if seconds >= least:
            return f"{seconds / {'days': 86_400, 'h': 3_600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def size(megabytes: float) -> str:
    """In the unit that one would say, decimal."""
    for unit, each in (("TB", 1e6), ("GB", 1e3)):
        if megabytes >= each:
            return f"{megabytes / each:,.1f} {unit}"
    return f"{megabytes:.3g} MB"
