"""Small Flower apps for tests: real bundles with NumPy-only code, each under a package name of its own."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path

from trusted.apps.bundle import build_bundle, bundle_digest, unpack_bundle
from trusted.documents.layout import Layout

LAYOUT = Layout.parse(
    [
        {"name": "w", "dtype": "float32", "shape": [2, 3]},
        {"name": "scale", "dtype": "float32", "shape": []},
        {"name": "steps", "dtype": "int64", "shape": [2]},
    ]
)
_numbers = itertools.count()

PYPROJECT = """\
[project]
name = "test-app"
version = "1.0.0"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41.0"]

[tool.flwr.app]
publisher = "tests"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"

[tool.flwr.app.config]
step = 1.0
rounds = 3
note = "none"
nested.depth = 2
"""

CLIENT = """\
import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def taken(message):
    return {{name: array.numpy() for name, array in message.content["arrays"].items()}}


def answered(message, arrays, metrics):
    content = {{"metrics": MetricRecord(metrics)}}
    if arrays is not None:
        content["arrays"] = ArrayRecord({{name: Array(np.asarray(value)) for name, value in arrays.items()}})
    return Message(RecordDict(content), reply_to=message)


@app.train()
def train(message, context):
    arrays = taken(message)
{train}
"""

EVALUATE = """

@app.evaluate()
def evaluate(message, context):
{evaluate}
"""

WELL_BEHAVED = """\
arrays["w"] = arrays["w"] + np.float32(context.run_config["step"])
arrays["steps"] = arrays["steps"] + 1
return answered(message, arrays, {"num-examples": 10, "train-loss": 0.5})
"""


def write_app(folder: Path, *, train: str = WELL_BEHAVED, evaluate: str = "", package: str = "") -> Path:
    """A Flower app in ``folder`` whose train function has the body ``train``."""
    package = package or f"test_flower_app_{next(_numbers)}"
    (folder / package).mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(package=package))
    (folder / "LICENSE").write_text("Public domain.\n")
    client = CLIENT.format(train=textwrap.indent(train, "    "))
    if evaluate:
        client += EVALUATE.format(evaluate=textwrap.indent(evaluate, "    "))
    (folder / package / "__init__.py").write_text("")
    (folder / package / "client_app.py").write_text(client)
    (folder / package / "server_app.py").write_text("from flwr.serverapp import ServerApp\n\napp = ServerApp()\n")
    return folder


def unpacked(tmp_path: Path, *, train: str = WELL_BEHAVED, evaluate: str = "", package: str = "") -> Path:
    """The folder of an app that went through a bundle."""
    number = next(_numbers)
    source = write_app(tmp_path / f"source-{number}", train=train, evaluate=evaluate, package=package)
    data = build_bundle(source)
    return unpack_bundle(data, expected=bundle_digest(data), into=tmp_path / f"app-{number}")
