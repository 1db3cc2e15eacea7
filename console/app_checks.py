"""What ``cloister app check`` finds in a Flower app, and what to do. Trust zone: the author's or a member's machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from console.app_reading import RULES, AppSource, Strategy
from console.app_trial import Given, Trial, try_app
from console.diagnosis import Finding, ok, problem, warning
from trusted.apps.bundle import bundle_digest
from worker.dependencies import Standing, read_dependencies
from worker.trainer import Call

_SHOWN = 8
_NOT_RUN = (
    "The aggregator runs none of the app's code unless the plan asks for its ServerApp: fold by a rule of `plan new`."
)


def bundle(app_dir: Path, unpacked: Path, data: bytes) -> Iterator[Finding]:
    """Which files a worker gets, and which it does not."""
    members = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    yield ok("bundle", f"{len(members)} files, {len(data)} bytes, SHA-256 {bundle_digest(data).hex()}")
    if app_dir.is_dir():
        left = [path for path in _files(app_dir) if path not in members]
        if left:
            listed = ", ".join(left[:_SHOWN]) + (f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else "")
            advice = "Only .py .toml .md .yaml .yml .json .jsonl travel, no tests and nothing that is ignored."
            yield warning("left out", listed, f"{advice} Data come from the site.")


def _files(app_dir: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(app_dir):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        yield from (str((Path(folder) / name).relative_to(app_dir)) for name in sorted(names) if name[0] != ".")


def source(app: AppSource) -> Iterator[Finding]:
    """What can be read without running it."""
    for name in app.broken:
        yield problem("source", f"{name} is not Python {platform.python_version()}", "Mend it.")
    for kind in ("clientapp", "serverapp"):
        component, named = app.component(kind), app.components.get(kind, "")
        if component is not None:
            yield ok(kind, f"{named}, in {component[0]}")
        elif kind == "clientapp":
            yield problem(kind, f"{named or 'none'}: no such file in the bundle", "Mend components.clientapp.")
        else:
            yield warning(kind, f"{named or 'none'}: not found", "Nothing tells how the app aggregates.")
    listed = ", ".join(f"{key} = {value!r} ({type(value).__name__})" for key, value in sorted(app.config.items()))
    yield ok("run config", listed or "none")
    if app.unusual:
        advice = "Flower takes numbers, strings and booleans."
        yield problem("run config", f"{', '.join(app.unusual)}: no scalar", advice)
    if mods := app.mods():
        yield ok("mods", f"{', '.join(mods)}: run in the worker, as under Flower")
    yield _data(app)
    for place, what in app.network():
        found = f"{place}: {what}; a worker has no network and starts no program"
        advice = "Read the site's files below context.node_config['data-path']."
        if "downloads" in what:
            yield problem("network", found, advice)
        else:
            yield warning("network", found, "Leave it out, or let the app do without.")


def _data(app: AppSource) -> Finding:
    place = app.reads_its_data()
    if place:
        return ok("data", f"read below context.node_config['data-path'], {place}")
    advice = "Read CSV files in the folder context.node_config['data-path']; the plan names their columns."
    return problem("data", "the app never asks for context.node_config['data-path']: it will find no data", advice)


def dependencies(unpacked: Path) -> Iterator[Finding]:
    """Each requirement against the packages that are installed here, as a worker does it at its start."""
    flower = version("flwr")
    yield ok("image", f"this environment: Python {platform.python_version()}, flwr {flower}")
    for found in read_dependencies(unpacked):
        if found.standing is Standing.MET:
            yield ok("dependency", str(found))
        else:
            advice = "A worker would refuse this (APP-807). Change the requirement, or the image; nothing is installed."
            yield problem("dependency", str(found), advice)


def strategy(found: Strategy) -> Iterator[Finding]:
    """How the app aggregates under Flower, and what of that a plan can say."""
    if not found.names:
        yield warning("strategy", "none found in the ServerApp", f"{_NOT_RUN} Without one: the weighted mean.")
    for name in found.names:
        if name in found.own:
            yield warning("strategy", f"{name}, the app's own class, will not run by default", _NOT_RUN)
        elif name in RULES:
            advice = "" if name == "FedAvg" else "Give `plan new` that: the ServerApp itself does not run."
            yield ok("strategy", f"{name}: plan.aggregation {RULES[name]}. {advice}".rstrip())
        else:
            yield warning("strategy", f"{name} has no rule of Cloister's: it will not run by default", _NOT_RUN)
    for name, kind in (("train_config", found.train_config), ("evaluate_config", found.evaluate_config)):
        if kind is None:
            advice = f"Give `plan new` --{name.replace('_', '-')} key=value for each that the app reads."
            yield warning("messages", f"{name} is computed ({found.sources.get(name, '')}): not read", advice)
        elif kind:
            said = ", ".join(f"{key} = {value!r}" for key, value in kind.items())
            yield ok("messages", f"{name}: {said}; `plan new --app` takes it over")


def initial_model(found: Strategy) -> Finding:
    """Where the initial model comes from."""
    how = (
        "Make it once and save it: safetensors.torch.save_file(state_dict, 'initial.safetensors'), or for a list of "
        "arrays safetensors.numpy.save_file({str(n): a for n, a in enumerate(arrays)}, 'initial.safetensors')."
    )
    if not found.initial:
        return warning("initial model", "the ServerApp does not say plainly what it starts from", how)
    return ok("initial model", f"the ServerApp starts from {found.initial}. {how}")


def trial(app_dir: Path, given: Given, work: Path) -> Iterator[Finding]:
    """Load the app where it would run, and train one round where that was asked for."""
    done = try_app(app_dir, given, work)
    said = tuple(f"  {line}" for line in _its_own(done, app_dir))
    if not done.offers and done.error is not None:
        yield problem("import", f"{done.error.reason.code} {done.error.detail}", "\n".join(("The app says:", *said)))
        return
    yield ok("import", f"loads in its confined process ({', '.join(done.features) or 'no limit holds here'})")
    yield from _offered(done)
    if done.error is not None:
        found = f"{done.error.reason.code} {done.error.detail}"
        yield problem("one round", found, "\n".join(("The app says:", *said)))
    elif done.metrics:
        listed = ", ".join(f"{name} = {value:g}" for name, value in done.metrics.items())
        yield ok("one round", f"trained; {listed}. Metrics leave only where the plan lists them.")


def _its_own(done: Trial, app_dir: Path) -> list[str]:
    """The end of what the app said, without Python's own frames and without the folder that nobody knows."""
    lines = [
        line.replace(f"{app_dir}/", "") for line in done.words if line.strip(" ^~") and "importlib._boot" not in line
    ]
    return lines[-_SHOWN:]


def _offered(done: Trial) -> Iterator[Finding]:
    if Call.TRAIN in done.offers:
        yield ok("train", "offered")
    else:
        yield problem("train", "no function with @app.train()", "A run trains: register one.")
    if Call.EVALUATE in done.offers:
        yield ok("evaluate", "offered: each round's model is judged before it is trained")
    else:
        yield warning("evaluate", "not offered", "Metrics then come from training alone; register @app.evaluate().")
