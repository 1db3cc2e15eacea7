"""The command line as a person uses it: real files in a folder, and nothing of our own replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from console.main import build_app

MEMBERS = ("bank-c", "hospital-a", "lab-b")
APP = build_app()

PYPROJECT = """\
[project]
name = "tiny"
version = "1.0.0"

[tool.flwr.app]
publisher = "tests"

[tool.flwr.app.components]
serverapp = "tiny.app:app"
clientapp = "tiny.app:app"
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command left: exit code, what it printed, and the JSON of stdout where there is any."""

    code: int
    stdout: str
    stderr: str

    @property
    def envelope(self) -> dict[str, Any]:
        """The one object on stdout."""
        return dict(json.loads(self.stdout))

    @property
    def data(self) -> dict[str, Any]:
        """The data of a command that went well."""
        assert self.envelope["status"] == "ok", self.stderr
        return dict(self.envelope["data"])

    @property
    def error(self) -> dict[str, str]:
        """The error of a command that failed."""
        assert self.envelope["status"] == "error", self.stdout
        return dict(self.envelope["error"])


Cloister = Callable[..., Answer]


@pytest.fixture
def cloister() -> Cloister:
    """Run one command; ``json=False`` leaves ``--json`` away, ``keys`` is what the person types."""

    def run(*arguments: object, json: bool = True, keys: str | None = None) -> Answer:
        texts = [str(argument) for argument in arguments] + (["--json"] if json else [])
        result = CliRunner().invoke(APP, texts, input=keys)
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run


@dataclass(frozen=True, slots=True)
class Consortium:
    """A folder with three members' keys, an unsigned charter, an app and a model."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def key(self, member: str) -> Path:
        """The signing key of ``member``."""
        return self.folder / member / "signing-key.pem"

    @property
    def charter_options(self) -> list[object]:
        """The options of ``charter new`` for these members."""
        members = [option for member in MEMBERS for option in ("--member", self.folder / member / "member.json")]
        measurements = ["--aggregator-measurement", "5a" * 48, "--worker-measurement", "a5" * 48]
        return ["--name", "Trial", *members, *measurements]

    @property
    def plan_options(self) -> list[object]:
        """The options of ``plan new`` for this app and model."""
        return [
            *("--charter", self / "charter.dsse.json", "--app", self / "app"),
            *("--initial-model", self / "model.safetensors", "--name", "visits", "--purpose", "Predict visits"),
            *("--column", "age", "--column", "visits", "--recipient", "hospital-a"),
            *("--no-privacy-because", "all recipients are members", "--metric", "loss:2:3", "--rounds", "5"),
        ]


@pytest.fixture
def consortium(tmp_path: Path, cloister: Cloister) -> Consortium:
    """Three members with fresh keys, an app and a model, and a development charter that nobody has signed."""
    made = Consortium(tmp_path)
    for member in MEMBERS:
        assert cloister("member", "keygen", member, "--out", made / member).code == 0
    (made / "app" / "tiny").mkdir(parents=True)
    (made / "app" / "pyproject.toml").write_text(PYPROJECT)
    (made / "app" / "tiny" / "app.py").write_text("app = None\n")
    tensors = {"layer10.w": np.ones((2, 3), "f4"), "layer2.w": np.zeros(4, "f4"), "n": np.array(7, "i8")}
    save_file(tensors, made / "model.safetensors")
    options = ["--profile", "development", "--software-root", "ab" * 32, "--out", made / "charter.dsse.json"]
    assert cloister("charter", "new", *made.charter_options, *options).code == 0
    return made


@pytest.fixture
def chartered(consortium: Consortium, cloister: Cloister) -> Consortium:
    """The same with a charter that two members signed."""
    for member in MEMBERS[:2]:
        signed = cloister("charter", "sign", consortium / "charter.dsse.json", "--key", consortium.key(member), "--yes")
        assert signed.code == 0
    return consortium


@pytest.fixture
def planned(chartered: Consortium, cloister: Cloister) -> Consortium:
    """The same with a plan that everybody signed."""
    plan = chartered / "plan.dsse.json"
    assert cloister("plan", "new", *chartered.plan_options, "--out", plan).code == 0
    for member in MEMBERS:
        options = ["--charter", chartered / "charter.dsse.json", "--key", chartered.key(member), "--yes"]
        assert cloister("plan", "sign", plan, *options).code == 0
    return chartered
