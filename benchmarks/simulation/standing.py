"""What the tools did, side by side, and what it is held against. Trust zone: the developer's machine."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.command import table
from benchmarks.simulation.asked import Found
from benchmarks.simulation.tool import LOOP, POOL, SMALL, TOOLS, Tool
from benchmarks.simulation.work import Work

POPULATION = "population-"
_CLOSE = 1e-4  # relative, of the norms of final models: the same sites, cohorts and arithmetic
_CLOSE_BFLOAT16 = 0.02
_FLAT = 1.1


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one tool.

    Attributes:
        version: of a peer.
        load_1m: of the machine when it started: what others ran beside it.
        total_s: from the start of its first process to the end of its last.
        peak_mb: the most memory that its processes had at once, what they share counted once.
    """

    tool: str
    version: str
    work: Work
    repeat: int
    load_1m: float
    found: Found
    total_s: float
    peak_mb: float

    @property
    def clients_per_s(self) -> float:
        """In the median round: training and what the tool does around it, without its start."""
        return self.work.cohort / statistics.median(self.found.round_s)

    @property
    def whole_run_clients_per_s(self) -> float:
        """With the tool's start and end."""
        return self.work.clients / self.total_s


@dataclass(frozen=True, slots=True)
class Missed:
    """What a tool did not do. ``what``: its installation, or a work. ``log``: its last lines."""

    tool: str
    what: str
    reason: str
    log: str = ""

    def __str__(self) -> str:
        return f"{self.tool}, {self.what}: {self.reason}"


class Journal:
    """What was measured, kept in a folder line by line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.runs: list[Measured] = []
        self.failures: list[Missed] = []
        self._lines = folder / "runs.jsonl"

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """With what an earlier command left in ``folder``."""
        journal = cls(folder)
        journal.work.mkdir(parents=True, exist_ok=True)
        if journal._lines.exists():
            lines = journal._lines.read_text(encoding="utf-8").splitlines()
            journal.runs = [_parse(json.loads(line)) for line in lines]
        return journal

    def has(self, tool: str, work: Work, repeat: int) -> bool:
        """Whether this was measured."""
        return any((run.tool, run.work, run.repeat) == (tool, work, repeat) for run in self.runs)

    def add(self, run: Measured) -> None:
        """Keep it."""
        self.runs.append(run)
        with self._lines.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(run)) + "\n")

    def write(self, data: Mapping[str, Any]) -> None:
        """The summary."""
        (self.folder / "simulation.json").write_text(json.dumps(data, indent=1), encoding="utf-8")


def _parse(fields: Any) -> Measured:
    fields["work"] = Work(**fields["work"])
    fields["found"] = Found(tuple(fields["found"]["round_s"]), fields["found"]["norm"])
    return Measured(**fields)


@dataclass(frozen=True, slots=True)
class _Target:
    """A ratio that the project has set itself; None where one of its parts was not measured."""

    what: str
    least: float
    found: float | None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        met = None if self.found is None else self.found >= self.least
        return {"what": self.what, "least": self.least, "found": _rounded(self.found), "met": met}


@dataclass(slots=True)
class _Figures:
    """Medians by model and tool."""

    clients_per_s: dict[str, dict[str, float]] = field(default_factory=dict)
    whole: dict[str, dict[str, float]] = field(default_factory=dict)
    peak_mb: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, runs: Sequence[Measured]) -> _Figures:
        groups: dict[tuple[str, str], list[Measured]] = {}
        for run in runs:
            groups.setdefault((run.work.model, run.tool), []).append(run)
        figures = cls()
        for (model, tool), group in groups.items():
            figures.clients_per_s.setdefault(model, {})[tool] = _median(group, lambda run: run.clients_per_s)
            figures.whole.setdefault(model, {})[tool] = _median(group, lambda run: run.whole_run_clients_per_s)
            figures.peak_mb.setdefault(model, {})[tool] = _median(group, lambda run: run.peak_mb)
        return figures


def to_json(journal: Journal, asked: Sequence[Tool], skipped: Sequence[str]) -> dict[str, Any]:
    """For programs, nothing left out. ``skipped``: opt-ins that this processor has not."""
    speed = [run for run in journal.runs if not run.tool.startswith(POPULATION)]
    figures = _Figures.of(speed)
    population = {run.tool.removeprefix(POPULATION): run.peak_mb for run in journal.runs if run not in speed}
    return {
        "settings": {tool.name: tool.setting for tool in asked},
        "clients_per_s": figures.clients_per_s,
        "whole_run_clients_per_s": figures.whole,
        "peak_mb": figures.peak_mb,
        "population_peak_mb": population,
        "targets": [target.to_json() for target in _targets(figures, population)],
        "norms_differ": _norms_differ(speed),
        "skipped_for_want_of_bfloat16": list(skipped),
        "runs": [asdict(run) for run in journal.runs],
        "failures": [asdict(missed) for missed in journal.failures],
    }


def _targets(figures: _Figures, population: Mapping[str, float]) -> list[_Target]:
    speed, whole, memory = figures.clients_per_s, figures.whole, figures.peak_mb
    found = [
        _Target("cnn: one site after the other / bare loop", 0.95, _ratio(speed, "cnn", [POOL], [LOOP])),
        _Target("mlp: batched / bare loop", 1.5, _ratio(speed, "mlp", _ours(), [LOOP])),
    ]
    for model in ("cnn", "mlp"):
        found += [
            _Target(f"{model}: float32 / pfl", 1.1, _ratio(speed, model, _ours(bfloat16=False), ["pfl"])),
            _Target(f"{model}: with opt-ins / pfl", 1.7, _ratio(speed, model, _ours(), ["pfl"])),
            _Target(f"{model}: whole run / Flower", 2.0, _ratio(whole, model, _ours(bfloat16=False), ["flower"])),
            _Target(f"{model}: float32 / NVFlare", 5.0, _ratio(speed, model, _ours(bfloat16=False), ["nvflare"])),
            _Target(f"{model}: float32 / OpenFL", 5.0, _ratio(speed, model, _ours(bfloat16=False), ["openfl"])),
            _Target(f"{model}: with opt-ins / OpenFL", 5.0, _ratio(speed, model, _ours(), ["openfl"])),
        ]
        peers = {name: mb for name, mb in memory.get(model, {}).items() if TOOLS[name].is_peer}
        for name in peers:
            found.append(_Target(f"{model}: memory of {name} / ours", 1.0, _ratio(memory, model, [name], [POOL])))
        ten = _ratio(memory, model, ["openfl"], [SMALL])
        found.append(_Target(f"{model}: memory of openfl / ours with as many sites", 1.0, ten))
    if len(population) > 1:
        sizes = sorted(population, key=int)
        flat = population[sizes[0]] * _FLAT / population[sizes[-1]]
        found.append(_Target(f"memory of {sizes[0]} sites, and a tenth / {sizes[-1]} sites", 1.0, flat))
    return found


def _ours(*, bfloat16: bool = True) -> list[str]:
    tools = [tool for tool in TOOLS.values() if tool.is_ours and tool.name != SMALL]
    return [tool.name for tool in tools if bfloat16 or not tool.settings.get("bfloat16")]


def _ratio(
    figures: Mapping[str, Mapping[str, float]], model: str, above: Sequence[str], below: Sequence[str]
) -> float | None:
    """The best of ``above`` over the best of ``below``."""
    best = [
        max((figures[model][name] for name in names if name in figures.get(model, {})), default=None)
        for names in (above, below)
    ]
    return None if best[0] is None or not best[1] else best[0] / best[1]


def _norms_differ(runs: Sequence[Measured]) -> list[str]:
    """Tools whose final model is not the bare loop's, of those that simulated the same; NVFlare tells no model."""
    loops = {run.work: run.found.norm for run in runs if run.tool == LOOP}
    differ = []
    for run in runs:
        expected = loops.get(run.work)
        close = _CLOSE_BFLOAT16 if TOOLS[run.tool].settings.get("bfloat16") else _CLOSE
        if expected is not None and run.found.norm and abs(run.found.norm / expected - 1) > close:
            differ.append(f"{run.tool}, {run.work}: {run.found.norm:.6f} instead of {expected:.6f}")
    return list(dict.fromkeys(differ))


def _median(group: Sequence[Measured], figure: Callable[[Measured], float]) -> float:
    return round(statistics.median(map(figure, group)), 4)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


def in_words(data: Mapping[str, Any], journal: Journal) -> str:
    """The tables, and below them what failed."""
    rows: list[tuple[str, ...]] = [("work", "tool", "clients/s", "whole run", "MB", "x loop", "setting")]
    for model, tools in data["clients_per_s"].items():
        for name, rate in tools.items():
            whole, memory = data["whole_run_clients_per_s"][model][name], data["peak_mb"][model][name]
            beside = f"{rate / tools[LOOP]:.2f}" if LOOP in tools else "-"
            figures = (f"{rate:.2f}", f"{whole:.2f}", f"{memory:.0f}", beside)
            rows.append((model, name, *figures, data["settings"].get(name, "")))
    targets: list[tuple[str, ...]] = [("target", "at least", "found", "met")]
    for each in data["targets"]:
        found = "-" if each["found"] is None else f"{each['found']:.2f}"
        targets.append((each["what"], f"{each['least']:g}", found, {None: "-", True: "yes", False: "NO"}[each["met"]]))
    parts = [table(rows), table(targets)]
    parts += [f"ANOTHER MODEL {line}" for line in data["norms_differ"]]
    parts += [f"not measured, no bfloat16 in this processor: {name}" for name in data["skipped_for_want_of_bfloat16"]]
    for failure in journal.failures:
        parts.append(f"FAILED {failure}" + (f"\n{failure.log}" if failure.log else ""))
    return "\n\n".join([*parts, f"raw results: {data['out']}"])
