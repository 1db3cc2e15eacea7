"""The measurement: the same for the same installation, and another one after any change that matters."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from softtee.archive import archive, member
from softtee.digests import DigestCache
from softtee.measure import Interpreter, Measurement, measure
from softtee.program import PROGRAMS, PROJECT_NAMES, Program
from trusted.evidence.boot import Role
from trusted.wire import encode_json

Measure = Callable[..., Measurement]


@pytest.fixture
def take(program: Program, interpreter: Interpreter, lock: Path, state: Path) -> Measure:
    """Measure the small installation, with changes."""
    cache = DigestCache(state)

    def take_measurement(role: Role = Role.WORKER, **changes: Any) -> Measurement:
        arguments: dict[str, Any] = {
            "program": program,
            "interpreter": interpreter,
            "lock": lock,
            "cache": cache,
            **changes,
        }
        return measure(role, **arguments)

    return take_measurement


def test_measurement_is_sha384_of_the_canonical_parts(take: Measure) -> None:
    found = take()
    parts = asdict(found.parts)
    assert sorted(parts) == ["code", "interpreter", "launcher", "lock", "role", "site"]
    assert all(len(bytes.fromhex(part)) == 48 for part in parts.values())
    assert found.value == hashlib.sha384(encode_json(parts)).digest()


def test_copies_of_an_installation_measure_alike_wherever_and_whenever(
    take: Measure, interpreter: Interpreter, program: Program, tmp_path: Path
) -> None:
    first = take()
    elsewhere = replace(program, root=shutil.copytree(program.root, tmp_path / "other", copy_function=shutil.copyfile))
    site = shutil.copytree(interpreter.site, tmp_path / "other-site", copy_function=shutil.copy)
    assert take(program=elsewhere, interpreter=replace(interpreter, site=site)) == first


def test_archive_is_deterministic_and_holds_sources_alone(program: Program) -> None:
    first = archive(program.root, program.packages)
    (program.root / "trusted" / "notes.txt").write_text("no code")
    (program.root / "trusted" / "__pycache__").mkdir()
    (program.root / "trusted" / "__pycache__" / "wire.pyc").write_bytes(b"x")
    for source in program.root.rglob("*.py"):
        os.utime(source, (1, 1))
        source.chmod(0o600)
    assert archive(program.root, program.packages) == first
    assert member(first, "trusted/wire.py") == (program.root / "trusted" / "wire.py").read_bytes()


def test_a_changed_added_or_removed_source_changes_code_alone(take: Measure, program: Program) -> None:
    first = take()
    source = program.root / "probe" / "main.py"
    honest = source.read_bytes()
    source.write_bytes(honest + b"\n")
    changed = take()
    source.write_bytes(honest)
    (program.root / "probe" / "extra.py").touch()
    added = take()
    assert _differing(first, changed) == _differing(first, added) == {"code"}


def test_lock_role_and_entry_change_the_measurement(take: Measure, lock: Path, program: Program) -> None:
    first = take()
    assert _differing(first, take(Role.AGGREGATOR)) == {"role"}
    assert _differing(first, take(program=replace(program, entry="probe.main:outcome"))) == {"role"}
    lock.write_text("rfc8785==0.1.3\n")
    assert _differing(first, take()) == {"lock"}


@pytest.mark.parametrize(
    "change",
    [
        lambda site: (site / "rfc8785" / "_impl.py").open("ab").write(b"#"),
        lambda site: (site / "new.py").touch(),
        lambda site: (site / "hook.pth").touch(),
        lambda site: (
            (site / "rfc8785" / "py.typed").unlink(missing_ok=True) or (site / "rfc8785" / "_impl.py").unlink()
        ),
        lambda site: (site / "rfc8785" / "_impl.py").chmod(0o755),
        lambda site: (site / "rfc8785" / "_impl.py").rename(site / "rfc8785" / "_impl2.py"),
        lambda site: (site / "link").symlink_to("rfc8785"),
    ],
    ids=["byte", "new", "pth", "removed", "executable", "renamed", "link"],
)
def test_any_change_of_installed_packages_changes_site(
    take: Measure, site: Path, change: Callable[[Path], None]
) -> None:
    first = take()
    change(site)
    assert _differing(first, take()) == {"site"}


def test_where_packages_were_installed_from_and_their_bytecode_do_not_count(take: Measure, site: Path) -> None:
    first = take()
    metadata = site / "rfc8785-0.1.4.dist-info"
    metadata.mkdir()
    for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
        (metadata / name).write_text("/home/somebody")
    (site / "__editable__.cloister-0.1.0.pth").write_text("/home/somebody/cloister")
    (site / "cloister-0.1.0.dist-info").mkdir()
    (site / "cloister-0.1.0.dist-info" / "METADATA").touch()
    (site / "rfc8785" / "__pycache__").mkdir(exist_ok=True)
    (site / "rfc8785" / "__pycache__" / "x.pyc").touch()
    assert take() == first
    (metadata / "entry_points.txt").touch()
    assert take() != first


def test_a_link_that_leads_out_of_what_is_measured_is_refused(take: Measure, site: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (site / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="outside"):
        take()


def test_a_link_to_a_file_counts_with_what_it_holds(take: Measure, site: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("a = 1")
    (site / "linked.py").symlink_to(tmp_path / "outside.py")
    first = take()
    (tmp_path / "outside.py").write_text("a = 2")
    assert _differing(first, take()) == {"site"}


def test_missing_lock_and_packages_say_what_to_do(take: Measure, program: Program, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"constraints\.txt"):
        take(lock=tmp_path / "missing.txt")
    with pytest.raises(ValueError, match=r"holds no \.py file"):
        take(program=replace(program, packages=("trusted", "missing")))


def test_a_source_that_is_a_link_is_refused(take: Measure, program: Program) -> None:
    (program.root / "probe" / "link.py").symlink_to("main.py")
    with pytest.raises(ValueError, match="symbolic link"):
        take()


def test_a_cached_measurement_equals_a_full_one(take: Measure, state: Path) -> None:
    first = take()
    assert take() == take(cache=DigestCache(state, rehash=True)) == first


def test_a_touched_file_is_hashed_again(site: Path, state: Path) -> None:
    source = site / "rfc8785" / "_impl.py"
    old = source.stat()
    first = _settled_tree(site, state)
    content = source.read_bytes()
    source.write_bytes(content.replace(b"import", b"Import", 1))
    os.utime(source, ns=(old.st_atime_ns, old.st_mtime_ns))  # same size and mtime: ctime tells
    assert DigestCache(state).tree(site, skip=_nothing) != first


def test_unchanged_files_are_not_read_again_unless_asked(
    site: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _settled_tree(site, state)
    read: list[str] = []

    def reading(path: str) -> str:
        read.append(path)
        return hashlib.sha384(Path(path).read_bytes()).hexdigest()

    monkeypatch.setattr("softtee.digests._sha384", reading)
    assert DigestCache(state).tree(site, skip=_nothing) == first
    assert read == []
    assert DigestCache(state, rehash=True).tree(site, skip=_nothing) == first
    assert len(read) == sum(path.is_file() for path in site.rglob("*"))


def test_a_broken_cache_is_an_empty_cache(site: Path, state: Path) -> None:
    first = _settled_tree(site, state)
    for garbage in ("", "[]", '{"a": 1}', "{", '{"a": ["b", [1, 2]]}'):
        for file in state.glob("digests-*.json"):
            file.write_text(garbage)
        assert DigestCache(state).tree(site, skip=_nothing) == first


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_state_directory_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    with pytest.raises(ValueError, match="0700"):
        DigestCache(tmp_path / "state")


def _nothing(_: str) -> bool:
    return False


def _settled_tree(site: Path, state: Path) -> bytes:
    """The digest of ``site``, remembered: files must be older than the clock's grain to be."""
    time.sleep(0.15)
    return DigestCache(state).tree(site, skip=_nothing)


def _differing(first: Measurement, second: Measurement) -> set[str]:
    assert (first.value == second.value) == (first.parts == second.parts)
    return {name for name, part in asdict(first.parts).items() if asdict(second.parts)[name] != part}


@pytest.mark.parametrize("role", list(Role))
def test_measured_code_imports_no_code_of_this_project_that_is_not_measured(role: Role) -> None:
    program = PROGRAMS[role]
    with zipfile.ZipFile(io.BytesIO(archive(program.root, program.packages))) as opened:
        sources = {name: opened.read(name) for name in opened.namelist()}
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in sources}
    modules |= {module.rpartition(".")[0] for module in modules}
    imported = {found for source in sources.values() for found in _imported(source)}
    assert {name for name in imported if name.partition(".")[0] in PROJECT_NAMES} <= modules
    assert program.entry.partition(":")[0] in modules


def _imported(source: bytes) -> set[str]:
    """The modules that ``source`` names in its import statements."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found
