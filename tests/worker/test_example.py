"""The example's data and app, and the figures that its README and the demonstration give."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from console.baselines import Baselines, Recipe, Scores
from trusted.documents.layout import Layout
from worker.flower import FlowerApp
from worker.trainer import Trainer, Vector, join_arrays

ROOT = Path(__file__).parents[2]
EXAMPLE, DATA = ROOT / "examples" / "rand_hie", ROOT / "data" / "rand_hie"
SITES = {f"site-{number}": DATA / f"site-{number}.csv" for number in range(1, 7)}
SEED, ROUNDS = 7, 12


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """``rand_hie.task`` of the source tree, gone again afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("rand_hie.task")
    for name in [name for name in sys.modules if name.partition(".")[0] == "rand_hie"]:
        del sys.modules[name]


@pytest.fixture
def recipe(task: ModuleType) -> Recipe:
    initial = {name: tensor.numpy() for name, tensor in task.initial_arrays(SEED).items()}
    layout = Layout.parse([{"name": n, "dtype": a.dtype.name, "shape": list(a.shape)} for n, a in initial.items()])
    return Recipe(EXAMPLE, {"seed": SEED}, layout, join_arrays(layout, initial), ROUNDS, ("auc",))


def federated(recipe: Recipe) -> Vector:
    """Plain weighted averaging over the six sites with our trainer."""
    apps = [
        FlowerApp.load(recipe.app_dir, config=recipe.config, node_config={"data-path": str(path)}, log=print)
        for path in SITES.values()
    ]
    trainers = [Trainer(app, recipe.layout, print) for app in apps]
    model = recipe.initial
    for number in range(1, recipe.rounds + 1):
        results = [trainer.train(model, number) for trainer in trainers]
        total = sum(result.num_examples for result in results)
        step = sum(result.delta.astype(np.float64) * result.num_examples / total for result in results)
        model = (model + step).astype(np.float32)
    return model


def own(scores: dict[str, Scores]) -> float:
    return float(np.mean([score.by_site[site]["auc"] for site, score in scores.items()]))


def test_the_federation_reaches_what_pooling_reaches_and_sites_alone_do_not(recipe: Recipe) -> None:
    with Baselines(recipe, SITES) as baselines:
        alone = {site: baselines.alone(site) for site in SITES}
        pooled = baselines.pooled()
        together = baselines.judge(federated(recipe))
    local = [scores.everyone["auc"] for scores in alone.values()]
    assert together.everyone["auc"] == pytest.approx(0.721, abs=0.01)
    assert pooled.everyone["auc"] == pytest.approx(0.719, abs=0.01)
    assert np.mean(local) == pytest.approx(0.684, abs=0.01)
    assert max(local) < together.everyone["auc"]
    assert own(alone) == pytest.approx(0.725, abs=0.01)


def test_a_baseline_is_the_same_twice(recipe: Recipe) -> None:
    with Baselines(recipe, {"site-3": SITES["site-3"]}) as baselines:
        assert baselines.alone("site-3") == baselines.alone("site-3")


def test_the_committed_files_are_those_that_the_readme_names() -> None:
    named = dict(re.findall(r"`(site-\d\.csv)` .*`([0-9a-f]{64})`", (DATA / "README.md").read_text()))
    assert named == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SITES.values()}


def test_the_rebuild_keeps_one_complete_first_year_for_each_person() -> None:
    spec = importlib.util.spec_from_file_location("rebuild", DATA / "rebuild.py")
    assert spec is not None
    assert spec.loader is not None
    rebuild = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rebuild)
    columns = [*rebuild.COLUMNS, "site", "pioff"]

    def line(**values: str) -> str:
        return ",".join(values.get(column, "1") for column in columns)

    rows = rebuild.first_rows(
        "\n".join(
            [
                ",".join(columns),
                line(zper="2", year="3", mdvis="9"),
                line(zper="2", year="2", mdvis="5.50"),
                line(zper="1", year="1"),
                line(zper="3", year="1", educdec=""),
                line(zper="4", year="1", pioff=""),
            ]
        ).encode()
    )
    assert [(row["zper"], row["year"], row["mdvis"]) for row in rows] == [("1", "1", "1"), ("2", "2", "5.50")]
    assert rebuild.encode_site(rows).startswith(b"zper,year,xage")


def test_a_source_that_is_another_file_is_refused(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("rebuild", DATA / "rebuild.py")
    assert spec is not None
    assert spec.loader is not None
    rebuild = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rebuild)
    (tmp_path / "randhie.csv").write_bytes(b"plan,site\n")
    with pytest.raises(ValueError, match="SHA-256"):
        rebuild.read_source(tmp_path / "randhie.csv")


def test_no_person_is_on_both_sides_of_the_split_in_whatever_order_rows_come(task: ModuleType, tmp_path: Path) -> None:
    lines = SITES["site-3"].read_text().splitlines()
    (tmp_path / "turned.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    parts = task.split(task.load_table(SITES["site-3"]), SEED)
    turned = task.split(task.load_table(tmp_path / "turned.csv"), SEED)
    assert not set(parts.train.person) & set(parts.held_out.person)
    assert set(parts.held_out.person) == set(turned.held_out.person)
    assert set(parts.held_out.person) != set(task.split(task.load_table(SITES["site-3"]), SEED + 1).held_out.person)
    assert len(parts.held_out.person) / (len(lines) - 1) == pytest.approx(0.3, abs=0.03)


def test_the_sensitive_attribute_is_no_feature_and_features_stay_within_their_bounds(task: ModuleType) -> None:
    assert "black" not in task.COLUMNS
    table = task.load_table(DATA)
    assert (table.x.min().item(), table.x.max().item()) == (-1.0, 1.0)
    assert table.x.shape == (5907, task.INPUTS)


@pytest.mark.parametrize("seed", range(5))
def test_the_auc_is_the_exact_one_also_with_ties(task: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, scores = rng.integers(0, 2, 80).astype(np.float32), rng.integers(0, 9, 80).astype(np.float32)
    above = scores[y == 1][:, None] - scores[y == 0][None, :]  # every pair of a positive and a negative
    assert task.auc(y, scores) == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean(), abs=1e-12)
    assert task.auc(np.ones(3), scores[:3]) == 0.5


def test_the_initial_model_is_the_same_bytes_for_a_seed(task: ModuleType, tmp_path: Path, monkeypatch) -> None:
    initial = importlib.import_module("rand_hie.initial")
    written = []
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        monkeypatch.setattr(sys, "argv", ["initial", "--seed", seed, "--out", str(tmp_path / name)])
        initial.main()
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1] != written[2]


def test_the_app_runs_under_plain_flower_with_fedavg(task: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own ServerApp and strategy over an in-process Grid, a partition for each site, no Cloister."""
    from flwr.app import Context, Message, RecordDict
    from flwr.common.config import get_fused_config_from_dir
    from flwr.serverapp import Grid
    from flwr.supercore.task_identity import TaskIdentity

    monkeypatch.chdir(ROOT)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    config = get_fused_config_from_dir(EXAMPLE, {"num-server-rounds": 2})
    client = importlib.import_module("rand_hie.client_app").app
    server = importlib.import_module("rand_hie.server_app").app
    nodes = {n: Context(1, n, {"partition-id": n - 1, "num-partitions": 6}, RecordDict(), config) for n in range(1, 7)}

    class InProcess(Grid):
        run = property(lambda self: None)

        def set_run(self, run) -> None: ...

        def create_message(self, *args, **kwargs) -> Message:
            return Message(*args, **kwargs)

        def get_node_ids(self):
            return list(nodes)

        def push_messages(self, messages):
            raise NotImplementedError

        def pull_messages(self, message_ids):
            raise NotImplementedError

        def send_and_receive(self, messages, *, timeout=None):
            return [client(message, nodes[message.metadata.dst_node_id]) for message in messages]

    printed: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
    server(InProcess(), Context(1, 0, {}, RecordDict(), config))
    assert re.fullmatch(r"held-out AUC, averaged over 6 sites: 0\.7[01]\d", printed[-1])
