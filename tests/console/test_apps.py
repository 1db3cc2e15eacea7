"""An app is read, loaded where it would run, and tried; a plan takes over what it says plainly, and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from console.app_reading import AppSource
from console.app_terms import read_terms
from tests.console.conftest import MEMBERS, Cloister, Consortium
from trusted.apps.bundle import build_bundle
from trusted.errors import AppError, Reason
from trusted.evidence.boot import Boot, Role
from worker.app_log import LogSealer, Part, Reader
from worker.start import Options, prepare

ROOT = Path(__file__).parents[2]
APPS = ROOT / "tests" / "worker" / "quickstart"
COMMAND = [sys.executable, "-c", "from console.main import main; main()"]


def checked(*arguments: object) -> tuple[int, dict[str, Any]]:
    """The command in a process of its own: it forks, and a process of tests may have threads."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    given = [*COMMAND, "app", "check", *map(str, arguments), "--json"]
    done = subprocess.run(given, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)


def write_app(folder: Path, *, client: str, server: str, config: str = "", dependencies: str = "") -> Path:
    (folder / "mine").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "mine"\nversion = "1.0.0"\ndependencies = [{dependencies}]\n'
        'license = { file = "LICENSE" }\n[tool.flwr.app]\npublisher = "tests"\nfab-format-version = 1\n'
        'flwr-version-target = "1.41.0"\n[tool.flwr.app.components]\n'
        f'serverapp = "mine.server_app:app"\nclientapp = "mine.client_app:app"\n[tool.flwr.app.config]\n{config}\n'
    )
    (folder / "LICENSE").write_text("Public domain.\n")
    (folder / "mine" / "client_app.py").write_text(client)
    (folder / "mine" / "server_app.py").write_text(server)
    return folder


CLIENT = "from flwr.clientapp import ClientApp\napp = ClientApp()\n@app.train()\ndef train(msg, context): ...\n"
SERVER = """\
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import {strategy}
app = ServerApp()
@app.main()
def main(grid, context):
    config = context.run_config
    rounds: int = int(config["num-server-rounds"])
    strategy = {strategy}(fraction_train=config["fraction-train"], min_train_nodes=2)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(make()), num_rounds=rounds, {given})
"""
CONFIG = 'num-server-rounds = 7\nfraction-train = 0.5\nlr = 0.25\nnested.depth = 2\nname = "n"'


def server(strategy: str = "FedAvg", given: str = "") -> str:
    return SERVER.format(strategy=strategy, given=given)


def source(tmp_path: Path, **parts: str) -> AppSource:
    return AppSource.read(
        write_app(tmp_path / "app", **{"client": CLIENT, "server": server(), "config": CONFIG} | parts)
    )


@pytest.mark.slow
def test_a_quickstart_app_works_and_one_round_of_it_is_trained(tmp_path: Path) -> None:
    save_file({"0": np.ones((1, 1))}, tmp_path / "initial.safetensors")
    (tmp_path / "site.csv").write_text("a,b\n1,2\n")
    files = ["--data", tmp_path / "site.csv", "--initial-model", tmp_path / "initial.safetensors"]
    code, said = checked(APPS / "numpy", *files)
    checks = {check["name"]: check for check in said["data"]["checks"]}
    assert (code, said["data"]["problems"]) == (0, 0)
    assert {checks[name]["severity"] for name in ("import", "train", "evaluate", "strategy", "one round")} == {"ok"}
    assert "random_metric = " in checks["one round"]["found"]
    assert "seccomp" in checks["import"]["found"]
    assert "get_dummy_model" in checks["initial model"]["found"]


@pytest.mark.slow
def test_what_will_not_work_is_told_with_what_to_do_and_an_exit_code(tmp_path: Path) -> None:
    client = "from flwr_datasets import FederatedDataset\n" + CLIENT
    dependencies = '"flwr-datasets[vision]>=0.6.1", "numpy>=99"'
    app = write_app(tmp_path / "app", client=client, server=server("Bulyan"), config=CONFIG, dependencies=dependencies)
    (app / "mine" / "weights.npz").write_bytes(b"no")
    (app / "mine" / "test_it.py").write_text("")
    code, said = checked(app)
    found: dict[str, list[dict[str, str]]] = {}
    for check in said["data"]["checks"]:
        found.setdefault(check["name"], []).append(check)
    assert code == 1
    problems = {name for name, checks in found.items() if any(check["severity"] == "problem" for check in checks)}
    assert problems == {"dependency", "network", "data", "import"}
    assert "mine/test_it.py, mine/weights.npz" in found["left out"][0]["found"]
    assert [check["found"] for check in found["dependency"]] == [
        "flwr-datasets[vision]>=0.6.1: not in this image",
        f"numpy>=99: this image has {np.__version__}",
    ]
    assert found["network"][0]["found"].startswith("mine/client_app.py:1: flwr-datasets downloads data")
    assert "No module named 'flwr_datasets'" in found["import"][0]["advice"]  # the app's own words, to its author
    assert "Bulyan has no rule" in found["strategy"][0]["found"]
    assert all(check["advice"] for checks in found.values() for check in checks if check["severity"] == "problem")


def test_the_server_app_is_read_and_never_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    app = source(tmp_path, server=f"open({str(flag)!r}, 'w')\n" + server("FedAdam"))
    assert app.strategy().names == ("FedAdam",)
    assert not flag.exists()


def test_what_a_strategy_is_given_is_read_where_it_stands_plainly(tmp_path: Path) -> None:
    given = 'train_config=ConfigRecord({"lr": config["lr"], "fixed": 3}), evaluate_config=make_config()'
    found = source(tmp_path, server=server(given=given)).strategy()
    assert found.numbers == {"fraction_train": 0.5, "min_train_nodes": 2, "num_rounds": 7}
    assert (found.train_config, found.evaluate_config) == ({"lr": 0.25, "fixed": 3}, None)
    assert found.initial == "ArrayRecord(make())"
    assert found.sources["num_rounds"] == "num-server-rounds in pyproject.toml"


def test_what_is_assigned_twice_or_computed_is_not_guessed(tmp_path: Path) -> None:
    computed = server().replace('config["num-server-rounds"]', 'config["num-server-rounds"] * 2')
    again = computed.replace("    strategy =", "    config = other()\n    strategy =")
    assert source(tmp_path, server=again).strategy().numbers == {"min_train_nodes": 2}


def test_an_own_strategy_is_named_as_one(tmp_path: Path) -> None:
    own = "from flwr.serverapp.strategy import FedAvg\nclass Mine(FedAvg): ...\ns = Mine()\n"
    found = source(tmp_path, server=own).strategy()
    assert (found.names, found.own) == (("Mine",), ("Mine",))


def test_mods_and_a_file_that_is_not_python_are_told(tmp_path: Path) -> None:
    client = CLIENT.replace("app.train()", "app.train(mods=[fixedclipping_mod, LocalDpMod(1, 1, 1, 1e-5)])")
    app = source(tmp_path, client=client, server="def broken(:\n", config="listed = [1, 2]")
    assert app.mods() == ("fixedclipping_mod", "LocalDpMod(1, 1, 1, 1e-05)")
    assert app.broken == ("mine/server_app.py",)
    assert (app.unusual, app.strategy().names) == (("listed",), ())


def test_a_plan_says_what_the_app_says_and_from_where(chartered: Consortium, cloister: Cloister) -> None:
    given = 'train_config=ConfigRecord({"lr": config["lr"]})'
    app = write_app(chartered / "mine-app", client=CLIENT, server=server("FedAdam", given), config=CONFIG)
    options = [*chartered.plan_options[:-2], "--app", app, "--out", chartered / "p.dsse.json"]
    made = cloister("plan", "new", *options, "--config", "nested.depth=5")
    plan = made.data["plan"]
    assert plan["app"]["config"] == {
        "num-server-rounds": 7, "fraction-train": 0.5, "lr": 0.25, "nested.depth": 5, "name": "n",
    }  # fmt: skip
    assert plan["app"]["train_config"] == {"lr": 0.25}
    assert "evaluate_config" not in plan["app"]
    assert (plan["rounds"], plan["cohort"]["size"]) == (7, 2)
    taken = "; ".join(made.data["taken"])
    assert "7 round(s), from num-server-rounds in pyproject.toml" in taken
    assert "train_config: lr = 0.25, from mine/server_app.py:10" in taken
    assert "FedAdam" in made.data["left"][0]


def test_what_a_person_says_goes_before_what_the_app_says(chartered: Consortium, cloister: Cloister) -> None:
    given = 'train_config=ConfigRecord({"lr": config["lr"]})'
    app = write_app(chartered / "mine-app", client=CLIENT, server=server(given=given), config=CONFIG)
    options = [*chartered.plan_options, "--app", app, "--out", chartered / "p.dsse.json", "--size", "3"]
    told = {"train": ("lr=1.0", "2:lr=0.5", "3:lr=0.1"), "evaluate": ("full=true", "3:full=false")}
    options += [part for kind, texts in told.items() for text in texts for part in (f"--{kind}-config", text)]
    made = cloister("plan", "new", *options)
    plan = made.data["plan"]
    assert (plan["rounds"], plan["cohort"]["size"]) == (5, 3)
    assert made.data["taken"] == ["5 setting(s) of the run config, from [tool.flwr.app.config]"]
    assert (plan["app"]["train_config"], plan["app"]["evaluate_config"]) == ({"lr": 1.0}, {"full": True})
    assert plan["app"]["changes"] == [
        {"from_round": 2, "train_config": {"lr": 0.5}},
        {"from_round": 3, "train_config": {"lr": 0.1}, "evaluate_config": {"full": False}},
    ]


def test_an_app_that_says_nothing_leaves_a_plan_as_it_was(chartered: Consortium, cloister: Cloister) -> None:
    made = cloister("plan", "new", *chartered.plan_options[:-2], "--out", chartered / "p.dsse.json")
    assert (made.data["plan"]["rounds"], made.data["plan"]["app"]["config"], made.data["taken"]) == (3, {}, [])


def test_a_quickstart_app_fills_a_plan(tmp_path: Path) -> None:
    terms = read_terms(build_bundle(APPS / "pytorch"), {})
    assert (terms.rounds, terms.train_config, terms.left) == (3, {"lr": 0.1}, ())
    assert terms.fraction_train is None  # 1.0 is everybody


def test_what_a_server_app_would_say_follows_the_run_config_that_the_plan_has() -> None:
    terms = read_terms(build_bundle(APPS / "pytorch"), {"lr": 0.5, "num-server-rounds": 9, "fraction-train": 0.5})
    assert (terms.rounds, terms.train_config, terms.fraction_train) == (9, {"lr": 0.5}, 0.5)


def test_a_worker_refuses_at_its_start_an_app_that_needs_what_its_image_does_not_hold(
    chartered: Consortium, cloister: Cloister
) -> None:
    """Before it reads its data, starts a process or reads a key."""
    needs = '"numpy", "flwr-datasets>=0.6.1"'
    app = write_app(chartered / "mine-app", client=CLIENT, server=server(), config=CONFIG, dependencies=needs)
    charter, plan = ["--charter", chartered / "charter.dsse.json"], chartered / "plan.dsse.json"
    assert cloister("plan", "new", *chartered.plan_options, "--app", app, "--out", plan).code == 0
    for member in MEMBERS:
        assert cloister("plan", "sign", plan, *charter, "--key", chartered.key(member), "--yes").code == 0
    site, policy, key = chartered / "site", chartered / "site" / "site-policy.dsse.json", chartered.key("lab-b")
    assert cloister("member", "credential", *charter, "--key", key, "--out", site, "--valid-days", "2").code == 0
    assert cloister("site-policy", "new", *charter, "--member", "lab-b", "--plan", plan, "--out", policy).code == 0
    assert cloister("site-policy", "sign", policy, *charter, "--yes", "--key", key).code == 0
    names = ("ca_pem", "proxy", "worker_key", "data", "initial_model", "app_log", "collateral_store", "state")
    options = Options.read(
        Boot(
            Role.WORKER,
            (chartered / "charter.dsse.json").read_bytes(),
            plan.read_bytes(),
            dict.fromkeys(names, "")
            | {"coordinators": ["127.0.0.1:1"], "bundle": str(plan.with_name("plan.fab"))}
            | {"site_policy": policy.read_text(), "credential": (site / "credential.dsse.json").read_text()},
            NoEvidence(),
        )
    )
    boot = Boot(Role.WORKER, (chartered / "charter.dsse.json").read_bytes(), plan.read_bytes(), {}, NoEvidence())
    with pytest.raises(AppError) as error:
        prepare(boot, options, lambda *event, **fields: None)
    assert error.value.reason is Reason.APP_DEPENDENCY
    assert "flwr-datasets>=0.6.1: not in this image" in error.value.detail


class NoEvidence:
    """Nothing here is attested: the worker does not come so far."""


def test_a_bundle_is_written_the_same_twice_and_over_nothing(cloister: Cloister, tmp_path: Path) -> None:
    first = cloister("app", "build", APPS / "numpy", "--out", tmp_path / "one.fab")
    assert (
        cloister("app", "build", APPS / "numpy", "--out", tmp_path / "two.fab").data["bundle_sha256"]
        == (first.data["bundle_sha256"])
    )
    assert (tmp_path / "one.fab").read_bytes() == (tmp_path / "two.fab").read_bytes()
    assert cloister("app", "build", APPS / "numpy", "--out", tmp_path / "one.fab").code == 1
    assert cloister("app", "build", tmp_path, "--out", tmp_path / "no.fab").error["code"] == "APP-802"
    assert cloister("app", "check", APPS / "numpy", "--data", tmp_path).error["code"] == "CLI-001"


def test_a_member_opens_its_apps_log_and_nobody_else_does(
    consortium: Consortium, cloister: Cloister, tmp_path: Path
) -> None:
    from console.keyfiles import load_sealing_key

    key = consortium / "lab-b" / "sealing-key.pem"
    sealer = LogSealer(Reader("lab-b", bytes(32), load_sealing_key(key, None).public))
    parts = [sealer.part(0, b"one\x1b[2J\n", Part.WHOLE), sealer.part(1, b"two\n", Part.LAST)]
    log = tmp_path / "app.log"
    log.write_bytes(b"".join([sealer.head, *parts]))
    opened = cloister("worker", "log", log, "--key", key)
    assert (opened.code, opened.data["starts"][0]["words"]) == (0, "one\x1b[2J\ntwo\n")
    shown = cloister("worker", "log", log, "--key", key, json=False).stdout
    assert "\x1b[2J" not in shown
    assert "two" in shown
    log.write_bytes(sealer.head + parts[0])
    cut = cloister("worker", "log", log, "--key", key)
    assert (cut.code, cut.data["starts"][0]["end"]) == (0, "cut")
    log.write_bytes(sealer.head + parts[1] + parts[0])
    altered = cloister("worker", "log", log, "--key", key)
    assert (altered.code, altered.data["starts"][0]["end"]) == (5, "altered")
    other = cloister("worker", "log", log, "--key", consortium / "hospital-a" / "sealing-key.pem")
    assert other.error["code"] == "APP-809"
