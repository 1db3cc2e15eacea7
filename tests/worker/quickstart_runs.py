"""One app, run twice: by ``flwr run``, and from its bundle by Cloister's trainers.

Run as ``python -m tests.worker.quickstart_runs flower|cloister APP SITES OUT``: each half in an interpreter of its own,
because a trainer is forked before anything imports Flower or a framework. ``SITES`` holds ``site-1`` and so on, a CSV
file in each; ``OUT`` takes ``NAME.npz``; the Flower half also writes the model that both start from.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

ROUNDS = 3


def flower(app_dir: Path, sites: list[Path], out: Path) -> None:
    """``flwr run``, with Flower's own SuperLink and simulation: nothing of it is ours but ``quickstart_ear``."""
    home = out / "flower-home"
    home.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parent / "quickstart_ear"),
        "QUICKSTART_OUT": str(out),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = ["flwr", "run", str(app_dir), "local", "--stream", "-c", f'data-path="{sites[0].parent}"']
    command += ["--federation-config", f"num-supernodes={len(sites)}"]
    before = superlinks()
    try:
        done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, check=False)
    finally:
        for process in superlinks() - before:  # `flwr run` leaves its SuperLink running
            os.kill(process, signal.SIGTERM)
    if not (out / "flower.npz").exists():
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])


def superlinks() -> set[int]:
    """SuperLinks of this test's Flower home, by process id."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if b"flower-superlink" in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
    return found


def cloister(app_dir: Path, sites: list[Path], out: Path) -> None:
    """From the bundle, each site in a confined trainer; the fold is the weighted mean of updates, in float32."""
    import tomllib

    from trusted.apps.bundle import build_bundle, bundle_digest, unpack_bundle
    from trusted.documents.layout import Layout
    from worker.dependencies import require_dependencies
    from worker.trainer import join_arrays, split_vector
    from worker.trainer_process import TrainerProcess, TrainerSpec

    bundle = build_bundle(app_dir)
    initial = dict(np.load(out / "initial.npz"))
    layout = Layout.parse([{"name": n, "dtype": a.dtype.name, "shape": list(a.shape)} for n, a in initial.items()])
    config = tomllib.loads((app_dir / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    trainers = []
    for number, site in enumerate(sites):
        work = out / f"work-{number}"
        (work / "scratch").mkdir(parents=True)
        unpacked = unpack_bundle(bundle, expected=bundle_digest(bundle), into=work / "app")
        require_dependencies(unpacked)
        said = {"lr": config["lr"]} if "lr" in config else {}  # what its ServerApp gives to Strategy.start
        spec = TrainerSpec(unpacked, site, layout, {}, work / "log", work / "scratch", train_config=said)
        trainers.append(TrainerProcess.start(spec))
    model = join_arrays(layout, initial)
    for number in range(1, ROUNDS + 1):
        results = [trainer.train(model, number, 120) for trainer in trainers]
        total = sum(result.num_examples for result in results)
        model = model + sum(result.delta * np.float32(result.num_examples / total) for result in results)
    for trainer in trainers:
        trainer.stop()
    np.savez(out / "cloister.npz", **split_vector(layout, model))
    names = results[0].metrics
    mean = {name: sum(r.metrics[name] * r.num_examples for r in results) / total for name in names}
    (out / "cloister.json").write_text(json.dumps(mean))


if __name__ == "__main__":
    half, app, folder, written = sys.argv[1:]
    given = Path(app).resolve(), sorted(Path(folder).resolve().iterdir()), Path(written).resolve()
    {"flower": flower, "cloister": cloister}[half](*given)
