"""Each seam of the installed Flower that worker.flower stands on, and what becomes of an app that misbehaves."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedProx

from tests.worker.flower_apps import LAYOUT, unpacked, write_app
from trusted.apps.flower_component import OFF
from trusted.documents.terms import Aggregation, Change, Rule
from trusted.errors import AppError, Reason
from worker.flower import FlowerApp, as_defaults, fuse_config
from worker.trainer import Call, Trainer, join_arrays, split_vector

EXAMPLE = Path(__file__).parents[2] / "examples" / "rand_hie"
DATA = Path(__file__).parents[2] / "data" / "rand_hie"
MODEL = np.arange(LAYOUT.elements, dtype=np.float32)
MEAN = Aggregation(Rule.WEIGHTED_MEAN, 1000)


@pytest.fixture(autouse=True)
def clean_path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.partition(".")[0] == "rand_hie"]:
        del sys.modules[name]


def load(
    app_dir: Path,
    said: list[str] | None = None,
    messages: dict[Call, dict[str, bool | int | float | str]] | None = None,
    changes: Sequence[Change] = (),
    **config: bool | int | float | str,
) -> FlowerApp:
    log = (said if said is not None else []).append
    node = {"data-path": "/data"}
    return FlowerApp.load(app_dir, config=config, node_config=node, messages=messages, changes=changes, log=log)


def test_the_installed_flower_is_one_that_these_tests_speak_for() -> None:
    major, minor, *_ = importlib.metadata.version("flwr").split(".")
    assert (int(major), int(minor)) in {(1, 41), (1, 42)}


def test_an_unmodified_app_is_given_arrays_round_configuration_and_data(tmp_path: Path) -> None:
    seen = tmp_path / "seen.txt"
    body = f"""\
config = message.content["config"]
open({str(seen)!r}, "w").write(repr((
    sorted(arrays), arrays["steps"].dtype.name, config["server-round"], message.metadata.message_type,
    context.node_config["data-path"], context.run_config["step"], context.run_config["nested.depth"],
)))
arrays["w"] = arrays["w"] + np.float32(context.run_config["step"])
return answered(message, arrays, {{"num-examples": 10, "train-loss": 0.5}})
"""
    app = load(unpacked(tmp_path, train=body), step=2)
    reply = app.ask(Call.TRAIN, split_vector(LAYOUT, MODEL), round_number=4)
    assert seen.read_text() == repr((["scale", "steps", "w"], "int64", 4, "train", "/data", 2.0, 2))
    assert reply.metrics == {"num-examples": 10, "train-loss": 0.5}
    np.testing.assert_array_equal(reply.arrays["w"], split_vector(LAYOUT, MODEL)["w"] + 2)


def test_fedprox_tells_the_proximal_term_to_training_alone_as_flowers_own_strategy_does(tmp_path: Path) -> None:
    seen = tmp_path / "seen.txt"
    body = f"""\
open({str(seen)!r}, "a").write(repr(dict(message.content["config"])) + "\\n")
return answered(message, ARRAYS, {{"num-examples": 10}})
"""
    train, evaluate = (body.replace("ARRAYS", given) for given in ("arrays", "None"))
    app_dir = unpacked(tmp_path, train=train, evaluate=evaluate)
    for mu in (0.25, 0.0):
        messages = {Call.TRAIN: replace(MEAN, proximal_mu=mu).train_config}
        app = load(app_dir, messages=messages)
        for call in (Call.TRAIN, Call.EVALUATE):
            app.ask(call, split_vector(LAYOUT, MODEL), round_number=4)
    strategy, theirs = FedProx(proximal_mu=0.25, fraction_train=0.0), ConfigRecord()
    strategy.configure_train(4, ArrayRecord(), theirs, None)
    told = [ast.literal_eval(line) for line in seen.read_text().splitlines()]
    assert told[0] == {"server-round": 4, **theirs} == {"server-round": 4, "proximal-mu": 0.25}
    assert told[1:] == [{"server-round": 4}] * 3


def test_every_message_says_what_the_plan_says_and_a_float_is_one_again(tmp_path: Path) -> None:
    """``Strategy.start(train_config=...)``: FedAvg puts it beside ``server-round``."""
    seen = tmp_path / "seen.txt"
    body = f"""\
open({str(seen)!r}, "w").write(repr(sorted(dict(message.content["config"]).items())))
return answered(message, arrays, {{"num-examples": 10}})
"""
    messages = {Call.TRAIN: {"lr": 0.5, "step": 1, "epochs": 1}, Call.EVALUATE: {"never": "seen"}}
    app = load(unpacked(tmp_path, train=body), messages=messages)
    app.ask(Call.TRAIN, split_vector(LAYOUT, MODEL), round_number=4)
    # The app's run config has a float ``step``; canonical JSON had written its 1.0 as 1.
    assert seen.read_text() == repr([("epochs", 1), ("lr", 0.5), ("server-round", 4), ("step", 1.0)])
    assert as_defaults({"a": 1.0, "b": 2, "c": True}, {"a": 3, "b": 3, "c": True, "d": 3}) == {
        "a": 3.0, "b": 3, "c": True, "d": 3,
    }  # fmt: skip


def test_messages_change_with_the_round_and_so_they_do_for_the_shadows_of_an_audit(tmp_path: Path) -> None:
    body = """\
config = dict(message.content["config"])
return answered(message, arrays, {"num-examples": 1, **{key: value for key, value in config.items()}})
"""
    messages = {Call.TRAIN: {"lr": 0.5, "epochs": 1}}
    changes = [Change(3, (("lr", 0.1), ("step", 1))), Change(5, (("epochs", 2),), (("never", "seen"),))]
    app = load(unpacked(tmp_path, train=body), messages=messages, changes=changes)
    for asked in (app, app.elsewhere(tmp_path)):
        told = {n: asked.ask(Call.TRAIN, split_vector(LAYOUT, MODEL), round_number=n).metrics for n in range(1, 7)}
        at_first, later = {"lr": 0.5, "epochs": 1}, {"lr": 0.1, "epochs": 1, "step": 1.0}
        expected = {1: at_first, 2: at_first, 3: later, 4: later, 5: later | {"epochs": 2}, 6: later | {"epochs": 2}}
        assert told == {n: {"num-examples": 1, "server-round": n} | said for n, said in expected.items()}


def test_context_state_lives_on_from_round_to_round(tmp_path: Path) -> None:
    body = """\
seen = context.state.metric_records.get("seen", MetricRecord({"rounds": 0}))["rounds"] + 1
context.state["seen"] = MetricRecord({"rounds": seen})
return answered(message, arrays, {"num-examples": 1, "rounds": seen})
"""
    trainer = Trainer(load(unpacked(tmp_path, train=body)), LAYOUT, print)
    assert [trainer.train(MODEL, number).metrics["rounds"] for number in (1, 2, 3)] == [1, 2, 3]


def test_two_apps_do_not_share_state(tmp_path: Path) -> None:
    body = """\
fresh = "seen" not in context.state
context.state["seen"] = MetricRecord({"x": 1})
return answered(message, arrays, {"num-examples": 1, "fresh": int(fresh)})
"""
    folder = unpacked(tmp_path, train=body)
    for _ in range(2):
        assert Trainer(load(folder), LAYOUT, print).train(MODEL, 1).metrics["fresh"] == 1


def test_telemetry_update_check_and_installs_at_run_time_are_off() -> None:
    from flwr.common.constant import FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION, RUNTIME_DEPENDENCY_INSTALL
    from flwr.supercore.constant import FLWR_DISABLE_UPDATE_CHECK

    assert {FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION, FLWR_DISABLE_UPDATE_CHECK} < set(OFF)
    assert RUNTIME_DEPENDENCY_INSTALL is False
    source = Path(importlib.import_module("flwr.supercore.telemetry").__file__ or "").read_text()
    assert 'os.getenv("FLWR_TELEMETRY_ENABLED"' in source
    assert OFF["FLWR_TELEMETRY_ENABLED"] == "0"


def test_the_messages_are_those_that_fedavg_sends() -> None:
    from flwr.serverapp.strategy import FedAvg

    strategy = FedAvg()
    assert (strategy.arrayrecord_key, strategy.configrecord_key) == ("arrays", "config")
    assert strategy.weighted_by_key == "num-examples"


def test_an_app_without_evaluate_is_not_asked_to(tmp_path: Path) -> None:
    app = load(unpacked(tmp_path))
    assert (app.offers(Call.TRAIN), app.offers(Call.EVALUATE)) == (True, False)
    with pytest.raises(AppError) as error:
        app.ask(Call.EVALUATE, split_vector(LAYOUT, MODEL), round_number=1)
    assert error.value.reason is Reason.BUNDLE_MALFORMED


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('row 17: Ada Lovelace')", Reason.APP_FAILED),
        ("raise SystemExit(3)", Reason.APP_FAILED),
        ("return Message(Error(1, 'Ada Lovelace'), reply_to=message)", Reason.APP_FAILED),
        ("return None", Reason.APP_REPLY),
        ("return Message(RecordDict({}), reply_to=message)", Reason.APP_REPLY),
        ("return answered(message, None, {'num-examples': 1})", Reason.APP_REPLY),
        (
            "r = ArrayRecord({'w': Array('float32', (1,), 'pickle', b'Ada')})\n"
            "return Message(RecordDict({'a': r, 'm': MetricRecord({'num-examples': 1})}), reply_to=message)",
            Reason.APP_REPLY,
        ),
        (
            "r = ArrayRecord({'w': Array('float32', (1,), 'numpy.ndarray', b'no npy')})\n"
            "return Message(RecordDict({'a': r, 'm': MetricRecord({'num-examples': 1})}), reply_to=message)",
            Reason.APP_REPLY,
        ),
    ],
)
def test_an_app_that_fails_is_a_reason_and_its_words_stay_in_the_log(tmp_path: Path, body: str, reason: Reason) -> None:
    said: list[str] = []
    app = load(unpacked(tmp_path, train=body), said)
    with pytest.raises(AppError) as error:
        app.ask(Call.TRAIN, split_vector(LAYOUT, MODEL), round_number=1)
    assert error.value.reason is reason
    assert "Ada" not in str(error.value)
    assert ("Ada" in body) <= ("Ada" in "".join(said) or reason is Reason.APP_REPLY)


def test_an_object_array_is_never_unpickled(tmp_path: Path) -> None:
    flag = tmp_path / "unpickled"
    body = f"""\
import io, pathlib
class Bomb:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path({str(flag)!r}),))
buffer = io.BytesIO()
np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
r = ArrayRecord({{"w": Array("object", (1,), "numpy.ndarray", buffer.getvalue())}})
return Message(RecordDict({{"a": r, "m": MetricRecord({{"num-examples": 1}})}}), reply_to=message)
"""
    with pytest.raises(AppError) as error:
        load(unpacked(tmp_path, train=body)).ask(Call.TRAIN, split_vector(LAYOUT, MODEL), round_number=1)
    assert error.value.reason is Reason.APP_REPLY
    assert not flag.exists()


def test_an_app_that_raises_while_imported_is_refused_and_logged(tmp_path: Path) -> None:
    source = write_app(tmp_path / "broken")
    client = next(source.glob("*/client_app.py"))
    client.write_text("raise RuntimeError('secret')\n")
    said: list[str] = []
    with pytest.raises(AppError) as error:
        load(source, said)
    assert error.value.reason is Reason.APP_FAILED
    assert "secret" in "".join(said)
    assert "secret" not in str(error.value)


def test_a_clientapp_that_is_not_there_or_is_none_is_refused(tmp_path: Path) -> None:
    for number, code in enumerate(("", "app = 3\n")):
        source = write_app(tmp_path / f"wrong{number}")
        next(source.glob("*/client_app.py")).write_text(code)
        with pytest.raises(AppError) as error:
            load(source)
        assert error.value.reason is Reason.BUNDLE_MALFORMED


def test_an_app_package_cannot_take_the_place_of_installed_code(tmp_path: Path) -> None:
    source = write_app(tmp_path / "shadow", package="wave")  # a module of the standard library that nothing here uses
    with pytest.raises(AppError):
        load(source)
    assert "site-packages" not in str(source)
    assert Path(importlib.import_module("wave").__file__ or "").is_relative_to(sys.base_prefix)


def test_an_app_file_named_like_measured_code_does_not_shadow_it(tmp_path: Path) -> None:
    folder = unpacked(tmp_path)
    (folder / "colorsys.py").write_text("raise RuntimeError('shadowed')\n")
    load(folder)
    assert Path(importlib.import_module("colorsys").__file__ or "").is_relative_to(sys.base_prefix)


def test_a_whole_number_stands_for_a_float_where_the_app_has_one() -> None:
    fused = fuse_config({"lr": 0.5, "epochs": 3, "on": True}, {"lr": 1, "epochs": 4})
    assert fused == {"lr": 1.0, "epochs": 4, "on": True}
    assert type(fused["lr"]) is float


@pytest.mark.parametrize(
    "override", [{"unknown": 1}, {"epochs": 1.5}, {"epochs": True}, {"epochs": "3"}, {"on": 1}, {"lr": "x"}]
)
def test_a_config_key_or_type_that_the_app_does_not_have_is_refused(
    override: dict[str, bool | int | float | str],
) -> None:
    with pytest.raises(AppError) as error:
        fuse_config({"lr": 0.5, "epochs": 3, "on": True}, override)
    assert error.value.reason is Reason.BUNDLE_MALFORMED


def test_the_example_trains_from_its_own_initial_model_and_twice_the_same() -> None:
    app = FlowerApp.load(EXAMPLE, config={}, node_config={"data-path": str(DATA / "site-3.csv")}, log=print)
    from rand_hie import task  # type: ignore[import-not-found]

    from trusted.documents.layout import Layout

    initial = {name: tensor.numpy() for name, tensor in task.initial_arrays(7).items()}
    layout = Layout.parse([{"name": n, "dtype": a.dtype.name, "shape": list(a.shape)} for n, a in initial.items()])
    model = join_arrays(layout, initial)
    first, second = (Trainer(app, layout, print).train(model, 1) for _ in range(2))
    np.testing.assert_array_equal(first.delta, second.delta)
    assert set(first.metrics) == {"train-loss", "val-loss", "auc"}
    assert first.num_examples == 520  # of 731: the split is part of the figures
    assert not np.array_equal(first.delta, Trainer(app, layout, print).train(model, 2).delta)


LEGACY = """\
import numpy as np
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp

class Client(NumPyClient):
    def fit(self, parameters, config):
        parameters[0] = parameters[0] + np.float32(config["server_round"])
        return [*parameters], 12, {"train-loss": 0.5}
EVALUATE

app = ClientApp(client_fn=lambda context: Client().to_client())
"""
LEGACY_EVALUATE = """
    def evaluate(self, parameters, config):
        return 0.25, 3, {"auc": 0.7}
"""


def legacy_app(folder: Path, code: str) -> FlowerApp:
    source = write_app(folder)
    next(source.glob("*/client_app.py")).write_text(code)
    return load(source)


def test_an_app_of_the_older_kind_is_told_the_proximal_term_by_its_older_name(tmp_path: Path) -> None:
    source = write_app(tmp_path / "a")
    code = LEGACY.replace("EVALUATE", "").replace("server_round", "proximal_mu")
    next(source.glob("*/client_app.py")).write_text(code)
    app = load(source, messages={Call.TRAIN: replace(MEAN, proximal_mu=0.5).train_config})
    result = Trainer(app, LAYOUT, print).train(MODEL, 4)
    np.testing.assert_array_equal(result.delta, [0.5] * 6 + [0] * 3)


def test_an_app_of_the_older_kind_trains_and_judges_under_the_plans_names(tmp_path: Path) -> None:
    app = legacy_app(tmp_path / "a", LEGACY.replace("EVALUATE", LEGACY_EVALUATE))
    result = Trainer(app, LAYOUT, print).train(MODEL, 4)
    np.testing.assert_array_equal(result.delta, [4, 4, 4, 4, 4, 4, 0, 0, 0])
    assert result.num_examples == 12
    assert result.metrics == {"train-loss": 0.5, "auc": 0.7, "val-loss": 0.25}


def test_an_app_of_the_older_kind_without_evaluate_just_trains(tmp_path: Path) -> None:
    app = legacy_app(tmp_path / "a", LEGACY.replace("EVALUATE", ""))
    assert Trainer(app, LAYOUT, print).train(MODEL, 1).metrics == {"train-loss": 0.5}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("return parameters[:2], 12, {}", Reason.APP_REPLY),
        ("return [*parameters, parameters[0]], 12, {}", Reason.APP_REPLY),
        ("return parameters, 0, {}", Reason.APP_REPLY),
        ("raise ValueError('Ada')", Reason.APP_FAILED),
        ("return 'Ada'", Reason.APP_FAILED),
    ],
)
def test_an_app_of_the_older_kind_that_misbehaves_is_a_reason(tmp_path: Path, change: str, reason: Reason) -> None:
    code = LEGACY.replace("EVALUATE", "").replace('return [*parameters], 12, {"train-loss": 0.5}', change)
    with pytest.raises(AppError) as error:
        Trainer(legacy_app(tmp_path / "a", code), LAYOUT, print).train(MODEL, 1)
    assert error.value.reason is reason
    assert "Ada" not in str(error.value)


def test_the_records_of_the_older_kind_are_those_of_the_installed_flower() -> None:
    from flwr.common.typing import Code
    from flwr.compat.common import recorddict_compat

    source = Path(recorddict_compat.__file__).read_text()
    names = (
        '"fitins"',
        '"evaluateins"',
        '"fitres"',
        '"evaluateres"',
        ".parameters",
        ".config",
        ".num_examples",
        ".status",
    )
    assert [name for name in names if name not in source] == []
    assert (Code.OK.value, Code.EVALUATE_NOT_IMPLEMENTED.value) == (0, 4)
