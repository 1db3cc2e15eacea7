"""What an enclave of the software TEE remembers, through its real launcher: who finds it again, and who does not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softtee.chip import Chip, SoftwareRoot
from softtee.enclave import Enclave
from softtee.launcher import Launch
from softtee.program import Program
from softtee.sealing import SECRET, chip_secret
from softtee.surroundings import enclave_uid
from trusted.confinement import landlock_abi
from trusted.evidence.boot import Role

Run = Callable[..., tuple[Enclave, dict[str, Any]]]
PLAN, OTHER_PLAN = "01" * 32, "02" * 32
SEALED = "SEALED_STATE"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """A folder that the enclave may write in."""
    folder = tmp_path / "memory"
    folder.mkdir(mode=0o700)
    os.chown(folder, enclave_uid(), -1)
    return folder


@pytest.fixture
def recall(run: Run, memory: Path) -> Callable[..., list[str | None]]:
    """What a start of the enclave finds in its vault after ``steps``."""

    def start(*steps: list[str], plan: str = PLAN, **changes: Any) -> list[str | None]:
        options = {"vault": str(memory), "plan": plan, "steps": list(steps)}
        found = run(options, writable=(memory,), **changes)[1]
        return list(found["vault"])

    return start


def test_a_record_of_one_start_is_read_by_the_next(recall: Callable[..., list[str | None]], memory: Path) -> None:
    assert recall(["witness"], ["witness", "seen round 3"]) == [None, "seen round 3"]
    assert recall(["witness"], ["other"]) == ["seen round 3", None]
    assert [path.name for path in memory.iterdir()] == ["witness.sealed"]
    assert b"seen" not in (memory / "witness.sealed").read_bytes()


def test_another_measurement_cannot_read_it_and_the_first_still_can(
    recall: Callable[..., list[str | None]], program: Program
) -> None:
    recall(["witness", "seen"])
    (program.root / "probe" / "more.py").write_text("# one more measured line\n")
    assert recall(["witness"]) == [SEALED]
    (program.root / "probe" / "more.py").unlink()
    assert recall(["witness"]) == ["seen"]


def test_another_role_cannot_read_it(recall: Callable[..., list[str | None]]) -> None:
    recall(["witness", "seen"])
    assert recall(["witness"], role=Role.AGGREGATOR) == [SEALED]


def test_another_plan_cannot_read_it(recall: Callable[..., list[str | None]]) -> None:
    recall(["witness", "seen"])
    assert recall(["witness"], plan=OTHER_PLAN) == [SEALED]


def test_another_chip_cannot_read_it_nor_one_that_took_the_secret_along(
    recall: Callable[..., list[str | None]], start: Launch, software_root: SoftwareRoot, now: Any, tmp_path: Path
) -> None:
    recall(["witness", "seen"])
    software_root.issue_chip(now=now).save(tmp_path / "chip-2")
    assert recall(["witness"], chip_directory=tmp_path / "chip-2") == [SEALED]
    shutil.copy(start.chip_directory / SECRET, tmp_path / "chip-2" / SECRET)
    assert recall(["witness"], chip_directory=tmp_path / "chip-2") == [SEALED]


def test_a_chip_that_is_older_than_sealing_gets_its_secret_once(
    recall: Callable[..., list[str | None]], start: Launch
) -> None:
    (start.chip_directory / SECRET).unlink()
    assert recall(["witness", "seen"]) == ["seen"]
    assert recall(["witness"]) == ["seen"]
    assert (start.chip_directory / SECRET).stat().st_mode & 0o777 == 0o600


def test_a_chip_saved_again_keeps_its_secret_and_another_chip_has_another(chip: Chip, tmp_path: Path) -> None:
    chip.save(tmp_path / "one")
    first = chip_secret(tmp_path / "one")
    chip.save(tmp_path / "one")
    chip.save(tmp_path / "two")
    assert chip_secret(tmp_path / "one") == first != chip_secret(tmp_path / "two")
    assert sorted(path.name for path in (tmp_path / "one").iterdir() if path.name.startswith(".")) == []


def test_a_damaged_secret_is_refused_and_not_replaced(chip: Chip, tmp_path: Path) -> None:
    chip.save(tmp_path / "chip")
    (tmp_path / "chip" / SECRET).write_bytes(b"k" * 31)
    with pytest.raises(ValueError, match="32 bytes"):
        chip_secret(tmp_path / "chip")
    assert (tmp_path / "chip" / SECRET).read_bytes() == b"k" * 31


@pytest.mark.skipif(landlock_abi() < 1, reason="this kernel has no Landlock")
def test_a_child_that_was_not_given_the_folder_cannot_reach_it_nor_can_another_enclave(run: Run, memory: Path) -> None:
    """The child confines itself with the trainer's own call; tests/worker has the trainer."""
    options = {"vault": str(memory), "plan": PLAN, "steps": [["witness", "seen"]]}
    _, found = run(options, writable=(memory,))
    assert found["vault"] == ["seen"]
    assert found["child"]["vault"] == "PermissionError"
    _, other = run({"read": [str(memory / "witness.sealed")], "write": [str(memory / "new")]})
    assert "allowed" not in {*other["read"].values(), *other["write"].values()}


def test_the_folder_is_the_one_place_that_is_left(run: Run, start: Launch, memory: Path) -> None:
    before = {path for path in start.log.parent.rglob("*") if memory not in path.parents}
    options = {"vault": str(memory), "plan": PLAN, "steps": [["witness", "seen"]]}
    assert run(options, writable=(memory,))[1]["vault"] == ["seen"]
    after = {path for path in start.log.parent.rglob("*") if memory not in path.parents}
    assert after - before <= {start.log}
