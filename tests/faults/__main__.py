"""``python -m tests.faults --seed S --schedules N``: run schedules, one JSON line for each. A process shell.

It forks, so it has one thread and uses no gRPC itself; the tests start it, and people replay a schedule with it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import coordinator.enclave.__main__
import coordinator.host.server
import worker.__main__
import worker.collateral
import worker.coordinators
from tests.faults.federation import Federation
from tests.faults.outcomes import FAILED
from tests.faults.relay import Link, Way
from tests.faults.running import Ended, Judged, Running
from tests.faults.schedules import UNDISTURBED, Counted, Schedule, draw

TIMEOUT_S = 90.0
LOADED = (
    coordinator.enclave.__main__,
    coordinator.host.server,
    worker.__main__,
    worker.collateral,
    worker.coordinators,
)


def count(federation: Federation) -> tuple[Ended, Counted]:
    """An undisturbed run, and what there is to disturb."""
    with Running(federation, UNDISTURBED, count=True) as running:
        ended = running.to_the_end(TIMEOUT_S)
        points = {name: json.loads((running.site.folder / f"counts-{name}.json").read_text()) for name in running.names}
        passed = json.loads(running.site.relay_door.with_suffix(".json").read_text())
    messages = {(link, way): passed[f"{link.value} {way.value}"] for link in Link for way in Way}
    return ended, Counted(points, messages, len(ended.events))


def judge(ended: Ended, expected: Ended) -> None:
    """Raise for whatever differs from the undisturbed run."""
    if ended.model_sha256 != expected.model_sha256:
        raise Judged("the model is not that of the undisturbed run")
    if ended.rounds != expected.rounds:
        raise Judged(f"other rounds, or other contributions: {ended.rounds}")
    if ended.left["partial"]:
        raise Judged(f"left behind: {ended.left}")


def run(federation: Federation, schedule: Schedule, expected: Ended) -> dict[str, Any]:
    """Run one schedule; what is to be said of it."""
    said = {"seed": schedule.seed, "number": schedule.number, "kind": schedule.kind, "faults": _told(schedule)}
    running = Running(federation, schedule)
    began = time.monotonic()
    try:
        with running:
            ended = running.to_the_end(TIMEOUT_S)
            judge(ended, expected)
    except Judged as fault:
        said |= {"passed": False, "why": str(fault), "folder": str(running.site.folder)}
        said["seconds"] = round(time.monotonic() - began, 2)
    else:
        said |= {"passed": True, "seconds": round(ended.seconds, 2), "deaths": ended.deaths, "left": ended.left}
        said["descriptors"] = ended.host_descriptors
    return said


def _said_first(expected: Ended, counted: Counted) -> dict[str, Any]:
    return {
        "undisturbed_s": round(expected.seconds, 2),
        "moments": len(counted.moments()),
        "messages": {f"{link.value} {way.value}": count for (link, way), count in counted.messages.items()},
        "points": counted.points,
        "events": counted.events,
        "left": expected.left,
        "descriptors": expected.host_descriptors,
    }


def _counted_before(said: dict[str, Any]) -> Counted:
    messages = {(link, way): said["messages"][f"{link.value} {way.value}"] for link in Link for way in Way}
    return Counted(said["points"], messages, said["events"])


def _told(schedule: Schedule) -> list[str]:
    return [str(fault) for fault in schedule.faults]


def main(arguments: list[str]) -> int:
    """0 when all passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seed", default="cloister")
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first schedule")
    parser.add_argument("--until-s", type=float, default=0.0, help="begin no schedule after so many seconds")
    parser.add_argument("--counted", type=Path, help="output of an earlier run, to draw from exactly what it drew from")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a run that failed")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    federation = Federation.found()
    expected, counted = count(federation)
    if options.counted is not None:
        counted = _counted_before(json.loads(options.counted.read_text().splitlines()[0]))
    print(json.dumps(_said_first(expected, counted)), flush=True)
    failed = 0
    for number in range(options.first, options.first + options.schedules):
        if options.until_s and time.monotonic() - began > options.until_s:
            break
        said = run(federation, draw(options.seed, number, counted), expected)
        failed += not said["passed"]
        print(json.dumps(said), flush=True)
        if "folder" in said and not options.keep:
            shutil.rmtree(said["folder"], ignore_errors=True)
    return FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
