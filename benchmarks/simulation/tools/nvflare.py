"""NVFlare's simulator with its FedAvg recipe: as many threads as sites, so that each keeps its process."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from pathlib import Path

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

from benchmarks.simulation.asked import Asked, Found, seconds_between
from benchmarks.simulation.model import module_of

INTERVAL_S = 0.05  # its own is 2 s
STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}")
MARK = re.compile(r"Round \d+ started|Finished FedAvg")


def main(path: str) -> None:
    asked = Asked.read(path)
    work, folder = asked.work, Path(path).parent
    recipe = FedAvgRecipe(
        name="compared",
        model=module_of(work.model),
        min_clients=work.cohort,
        num_rounds=work.rounds,
        train_script=str(Path(__file__).with_name("nvflare_site.py")),
        train_args=path,
    )
    recipe.add_server_config({"server": {"task_request_interval": INTERVAL_S}})
    run = recipe.execute(
        SimEnv(num_clients=work.sites, num_threads=work.sites, workspace_root=str(folder / "workspace"))
    )
    run.get_result()
    Found(rounds_of(folder, work.rounds), 0.0).write(path)


def rounds_of(folder: Path, rounds: int) -> tuple[float, ...]:
    """From the server's log, which tells when each round starts and when the last is over."""
    for log in sorted(folder.rglob("log.txt")):
        marks, latest = [], ""
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if stamp := STAMP.match(line):  # a message may stand some lines below its time
                latest = stamp.group()
            if latest and MARK.search(line):
                marks.append(datetime.strptime(latest, "%Y-%m-%d %H:%M:%S,%f").timestamp())
        if len(marks) == rounds + 1:
            return seconds_between(marks)
    raise RuntimeError("no log tells of every round")


if __name__ == "__main__":
    main(sys.argv[1])
