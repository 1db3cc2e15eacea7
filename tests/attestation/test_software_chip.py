"""The software TEE's root and chips on disk: private, and the same after a restart."""

from __future__ import annotations

import stat
from datetime import datetime
from pathlib import Path

import pytest

from softtee.chip import Chip, SoftwareRoot
from tests.attestation.conftest import attest_with
from trusted.attestation.appraise import verify


def test_a_root_and_its_chips_survive_a_restart(
    software_root: SoftwareRoot, chip: Chip, now: datetime, tmp_path: Path
) -> None:
    software_root.save(tmp_path / "root")
    chip.save(tmp_path / "chip")
    root, again = SoftwareRoot.load(tmp_path / "root"), Chip.load(tmp_path / "chip")
    assert root.trust_root == software_root.trust_root
    assert again.chip_id == chip.chip_id
    for device in (again, root.issue_chip(now=now)):
        verify(attest_with(device), [software_root.trust_root], now)


def test_what_is_saved_is_for_its_owner_alone(software_root: SoftwareRoot, chip: Chip, tmp_path: Path) -> None:
    (tmp_path / "chip").mkdir(mode=0o755)
    (tmp_path / "chip" / "vcek.key").touch(0o644)
    software_root.save(tmp_path / "root")
    chip.save(tmp_path / "chip")
    for directory in (tmp_path / "root", tmp_path / "chip"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_a_key_is_never_written_through_a_link(chip: Chip, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    (tmp_path / "chip").mkdir()
    (tmp_path / "chip" / "vcek.key").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link"):
        chip.save(tmp_path / "chip")
    assert elsewhere.read_bytes() == b""


def test_chips_of_a_root_differ(software_root: SoftwareRoot, chip: Chip, now: datetime) -> None:
    other = software_root.issue_chip(now=now)
    assert other.chip_id != chip.chip_id
    assert len(other.chip_id) == 64
    assert other.certificate_chain[1:] == chip.certificate_chain[1:]


def test_an_unknown_product_is_refused(now: datetime) -> None:
    with pytest.raises(ValueError, match="Milan, Genoa, Turin"):
        SoftwareRoot.create(now=now, product="Rome")


def test_damaged_files_are_refused(chip: Chip, tmp_path: Path) -> None:
    chip.save(tmp_path / "chip")
    (tmp_path / "chip" / "product").write_text("Rome")
    with pytest.raises(ValueError, match="product"):
        Chip.load(tmp_path / "chip")
    (tmp_path / "chip" / "ark.der").unlink()
    with pytest.raises(OSError, match="ark"):
        Chip.load(tmp_path / "chip")


def test_keys_have_no_repr(software_root: SoftwareRoot, chip: Chip) -> None:
    for text in (repr(software_root), repr(chip)):
        assert "PrivateKey" not in text
