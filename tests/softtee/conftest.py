"""A small installation to measure, and real enclaves started from it."""

from __future__ import annotations

import importlib.util
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softtee.chip import Chip
from softtee.enclave import Enclave
from softtee.launcher import Launch, launch
from softtee.measure import Interpreter
from softtee.program import REPOSITORY, Program
from trusted.evidence.boot import Role

_INSTALLED = ("cryptography", "cffi", "_cffi_backend", "rfc8785")


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the few packages that trusted code needs: measured in milliseconds, unlike a gigabyte of torch."""
    site = tmp_path_factory.mktemp("site")
    site.chmod(0o755)  # the enclave's user must be able to read what is installed
    for name in _INSTALLED:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            pytest.fail(f"{name} is not installed")
        origin = Path(spec.origin)
        if origin.name == "__init__.py":
            shutil.copytree(origin.parent, site / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(origin, site / origin.name)
    return site


@pytest.fixture
def site(installation: Path, tmp_path: Path) -> Path:
    """A site-packages directory that a test may change."""
    return shutil.copytree(installation, tmp_path / "site-packages", copy_function=shutil.copy2)


@pytest.fixture
def interpreter(site: Path) -> Interpreter:
    """The running interpreter with ``site``."""
    return replace(Interpreter.running(), site=site)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """``trusted`` and the probe, at a place where a test may change them."""
    root = tmp_path / "program"
    shutil.copytree(REPOSITORY / "trusted", root / "trusted", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "probe").mkdir()
    (root / "probe" / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("probe.py"), root / "probe" / "main.py")
    return Program(root, ("trusted", "probe"), "probe.main:main")


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock file."""
    path = tmp_path / "constraints.txt"
    path.write_text("rfc8785==0.1.4\n")
    return path


@pytest.fixture
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private state directory, empty."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def start(program: Program, interpreter: Interpreter, lock: Path, state: Path, tmp_path: Path, chip: Chip) -> Launch:
    """A start of the probe, to be changed with :func:`dataclasses.replace`."""
    chip.save(tmp_path / "chip")
    return Launch(
        role=Role.WORKER,
        charter=b"the charter",
        plan=b"the plan",
        charter_digest=b"\x01" * 32,
        plan_digest=b"\x02" * 32,
        chip_directory=tmp_path / "chip",
        log=tmp_path / "enclave.log",
        options={"report_data": secrets.token_hex(64)},
        program=program,
        interpreter=interpreter,
        lock=lock,
        state=state,
    )


@pytest.fixture
def run(start: Launch) -> Iterator[Callable[..., tuple[Enclave, dict[str, Any]]]]:
    """Start the probe with changed options or fields, wait for its end, and give the handle and what it logged."""
    started: list[Enclave] = []

    def run_probe(options: dict[str, Any] | None = None, **changes: Any) -> tuple[Enclave, dict[str, Any]]:
        changed = replace(start, options={**start.options, **(options or {})}, **changes)
        enclave = launch(changed)
        started.append(enclave)
        enclave.wait(60)
        lines = [line for line in changed.log.read_text().splitlines() if line.startswith('{"role"')]
        assert lines, changed.log.read_text()
        return enclave, json.loads(lines[-1])

    yield run_probe
    for enclave in started:
        enclave.terminate()
