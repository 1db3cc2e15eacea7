"""Bytecode for enclaves: only the launcher writes it, and nothing depends on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from softtee.bytecode import bytecode_directory, prime
from softtee.enclave import Enclave
from softtee.measure import Interpreter, Parts
from softtee.program import Program

Run = Callable[..., tuple[Enclave, dict[str, Any]]]
PARTS = Parts(code="c", interpreter="i", launcher="l", lock="k", role="r", site="s")


def compiled(state: Path) -> set[Path]:
    """The bytecode below ``state``."""
    return set((state / "bytecode").rglob("*.pyc"))


def test_a_directory_belongs_to_one_interpreter_and_one_set_of_packages(state: Path) -> None:
    first = bytecode_directory(state, PARTS)
    assert bytecode_directory(state, replace(PARTS, code="other", role="other")) == first
    assert bytecode_directory(state, replace(PARTS, site="other")) != first
    assert bytecode_directory(state, replace(PARTS, interpreter="other")) != first
    assert first.parent.stat().st_mode & 0o077 == 0


def test_it_is_filled_once_and_a_missing_module_is_left_out(state: Path, interpreter: Interpreter) -> None:
    directory = bytecode_directory(state, PARTS)
    prime(directory, interpreter, ("rfc8785", "no_such_module"), {})
    found = compiled(state)
    assert any(path.match("rfc8785/_impl.*.pyc") for path in found)
    for path in found:
        path.unlink()
    prime(directory, interpreter, ("rfc8785", "no_such_module"), {})
    assert compiled(state) == set()
    prime(directory, interpreter, ("rfc8785",), {})
    assert compiled(state) != set()


def test_an_enclave_runs_without_bytecode_and_leaves_none(run: Run, state: Path) -> None:
    enclave, _ = run()
    assert enclave.wait(1) == 42
    assert compiled(state) == set()


def test_an_enclave_reads_bytecode_and_cannot_add_to_it(run: Run, state: Path, program: Program) -> None:
    changed = replace(program, warm=("rfc8785", "cryptography.x509"))
    enclave, found = run({"import": ["cryptography.hazmat.primitives.twofactor.totp"]}, program=changed)
    before = compiled(state)
    assert (enclave.wait(1), set(found["import"].values())) == (42, {"allowed"})
    assert not [path for path in before if "totp" in path.name]
    directory = next(path.parent for path in before)
    _, found = run({"write": [f"{directory}/new.pyc"], "append": [str(min(before))]}, program=changed)
    assert "allowed" not in {*found["write"].values(), *found["append"].values()}
    assert compiled(state) == before
