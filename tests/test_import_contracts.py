"""The trust map of design.md §2 holds in the code: the contracts of pyproject.toml, and what an enclave needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

# What stands in an aggregator's memory besides the standard library. Growing this list is a decision: write an ADR.
AGGREGATOR_DEPENDENCIES = {"cryptography", "numpy", "rfc8785", "securesystemslib", "cffi", "_cffi_backend"}


def test_every_import_contract_is_kept():
    linter = Path(sys.executable).with_name("lint-imports")
    command = [str(linter), "--config", "pyproject.toml", "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()[-3000:]


def test_every_file_of_the_enclaves_inside_is_under_contract():
    """A new module cannot escape the contract by being new."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    contract = text[text.index("the inside of the aggregator") :]
    listed = set(re.findall(r'"coordinator\.enclave\.(\w+)"', contract[: contract.index("forbidden_modules")]))
    shells = {"__init__", "__main__", "clocks", "door_store", "doors", "server_flower", "server_process", "sessions"}
    shells |= {"workshop"}
    inside = REPOSITORY / "coordinator" / "enclave"
    files = {path.stem for path in (*inside.glob("*.py"), *(path.parent for path in inside.glob("*/__init__.py")))}
    assert files - shells == listed


def test_the_aggregator_loads_only_its_few_dependencies():
    code = (
        "import sys, coordinator.enclave.__main__\n"
        "own = {'coordinator', 'trusted'}\n"
        # A namespace that another package left empty is no code.
        "real = [name for name, module in sys.modules.items() if getattr(module, '__file__', None)]\n"
        "top = {name.partition('.')[0] for name in real}\n"
        "print(' '.join(sorted(top - own - set(sys.stdlib_module_names))))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n{code}"],
                          capture_output=True, check=True)  # fmt: skip
    loaded = {name for name in done.stdout.decode().split() if not name.startswith("__")}
    assert loaded <= AGGREGATOR_DEPENDENCIES | {"_distutils_hack", "sitecustomize", "_virtualenv"}
