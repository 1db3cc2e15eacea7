"""Files that are used again: within a bound, for blobs of about their size, and never longer than these."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.host.file_pool import FilePool


def file(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    path.write_bytes(name.encode() * (size // len(name)))
    return path


def test_a_file_that_is_given_is_gone_from_its_place_and_comes_back_with_its_pages(tmp_path: Path) -> None:
    pool, path = FilePool(tmp_path / "pool", 1000), file(tmp_path, "a", 100)
    inode = path.stat().st_ino
    pool.give(path)
    assert not path.exists()
    assert pool.size_bytes == 100
    pool.take(tmp_path / "b", 100)
    assert (tmp_path / "b").stat().st_ino == inode
    assert pool.size_bytes == 0


def test_of_files_of_one_size_the_newest_is_used_first(tmp_path: Path) -> None:
    pool = FilePool(tmp_path / "pool", 1000)
    for name in ("a", "b"):
        pool.give(file(tmp_path, name, 10))
    pool.take(tmp_path / "first", 10)
    pool.take(tmp_path / "second", 10)
    assert (tmp_path / "first").read_bytes() == b"b" * 10
    assert (tmp_path / "second").read_bytes() == b"a" * 10


@pytest.mark.parametrize(
    ("size", "taken"), [(50, 50), (25, 40), (60, 50), (100, 90), (180, 90), (19, None), (181, None), (None, 90)]
)
def test_a_blob_gets_the_file_whose_size_is_nearest_and_none_that_is_far_off(
    tmp_path: Path, size: int | None, taken: int | None
) -> None:
    pool, path = FilePool(tmp_path / "pool", 1000), tmp_path / "blob"
    for kept in (40, 90, 50):
        pool.give(file(tmp_path, "a", kept))
    pool.take(path, size)
    assert pool.size_bytes == 180 - (taken or 0)
    assert path.exists() == (taken is not None)
    if taken is not None:
        assert path.stat().st_size == min(taken, size or taken)


def test_an_empty_pool_gives_no_file(tmp_path: Path) -> None:
    pool = FilePool(tmp_path / "pool", 1000)
    pool.take(tmp_path / "a", None)
    assert not (tmp_path / "a").exists()


def test_a_file_that_does_not_exist_is_no_fault(tmp_path: Path) -> None:
    pool = FilePool(tmp_path / "pool", 1000)
    pool.give(tmp_path / "never")
    assert pool.size_bytes == 0


@pytest.mark.parametrize(("size", "kept"), [(50, True), (51, False), (0, False)])
def test_what_goes_beyond_the_limit_or_holds_nothing_is_deleted(tmp_path: Path, size: int, kept: bool) -> None:
    pool = FilePool(tmp_path / "pool", 100)
    pool.give(file(tmp_path, "a", 50))
    pool.give(file(tmp_path, "b", size))
    assert not (tmp_path / "b").exists()
    assert pool.size_bytes == (100 if kept else 50)
    assert len(list((tmp_path / "pool").iterdir())) == (2 if kept else 1)


def test_emptying_gives_the_disk_back_once(tmp_path: Path) -> None:
    pool = FilePool(tmp_path / "pool", 100)
    pool.give(file(tmp_path, "a", 50))
    pool.empty()
    pool.empty()
    assert list((tmp_path / "pool").iterdir()) == []
    pool.take(tmp_path / "b", 50)
    assert not (tmp_path / "b").exists()


def test_what_an_earlier_process_left_is_used_again(tmp_path: Path) -> None:
    FilePool(tmp_path / "pool", 100).give(file(tmp_path, "a", 50))
    again = FilePool(tmp_path / "pool", 100)
    assert again.size_bytes == 50
    again.take(tmp_path / "b", 50)
    assert (tmp_path / "b").read_bytes() == b"a" * 50
