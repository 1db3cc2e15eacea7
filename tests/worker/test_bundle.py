"""Bundles: what is built, what Flower makes of it, and what is never unpacked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.worker.flower_apps import write_app
from trusted.apps import bundle
from trusted.apps.bundle import build_bundle, bundle_digest, unpack_bundle
from trusted.errors import AppError, Reason

EXAMPLE = Path(__file__).parents[2] / "examples" / "rand_hie"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_app(tmp_path / "source", package="pack_me")


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {member.filename: archive.read(member) for member in archive.infolist()}


def manifest(files: dict[str, bytes]) -> bytes:
    return "\n".join(f"{n},{hashlib.sha256(d).hexdigest()},{len(d) * 8}" for n, d in files.items()).encode()


def archive_of(files: dict[str, bytes], *, mode: int = stat.S_IFREG | 0o600, listed: bool = True) -> bytes:
    """A zip with any members, listed in a right manifest unless told otherwise."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
        if listed:
            archive.writestr(".info/CONTENT", manifest(files))
    return buffer.getvalue()


def refused(data: bytes, into: Path, *, expected: bytes | None = None) -> Reason:
    with pytest.raises(AppError) as error:
        unpack_bundle(data, expected=expected or bundle_digest(data), into=into)
    assert not into.exists()
    return error.value.reason


def test_same_files_give_same_bytes_in_whatever_order_and_at_whatever_time_they_were_written(tmp_path: Path) -> None:
    first = write_app(tmp_path / "one", package="pack_me")
    second = tmp_path / "two"
    for path in sorted((p for p in first.rglob("*") if p.is_file()), reverse=True):
        target = second / path.relative_to(first)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        os.utime(target, (1, 1))
        target.chmod(0o755)
    assert build_bundle(first) == build_bundle(second)


def test_a_changed_letter_changes_the_digest(source: Path) -> None:
    before = bundle_digest(build_bundle(source))
    (source / "pack_me" / "client_app.py").open("a").write("#")
    assert bundle_digest(build_bundle(source)) != before


def test_what_was_packed_is_what_lies_there_after_unpacking(source: Path, tmp_path: Path) -> None:
    data = build_bundle(source)
    app = unpack_bundle(data, expected=bundle_digest(data), into=tmp_path / "app")
    unpacked = {path.relative_to(app).as_posix() for path in app.rglob("*") if path.is_file()}
    assert unpacked == set(members_of(data)) - {".info/CONTENT"}
    assert all((app / name).read_bytes() == (source / name).read_bytes() for name in unpacked)
    assert all((app / name).stat().st_mode & 0o377 == 0 for name in unpacked)


def test_caches_tests_links_hidden_environments_and_data_stay_out(source: Path) -> None:
    before = build_bundle(source)
    (source / "pack_me" / "__pycache__").mkdir()
    for name in ("pack_me/__pycache__/x.py", "pack_me/test_x.py", "pack_me/x_test.py", "data.csv", "model.bin"):
        (source / name).write_text("x")
    (source / ".venv").mkdir()
    (source / ".venv" / "x.py").write_text("x")
    (source / "pack_me" / "link.py").symlink_to("/etc/passwd")
    assert build_bundle(source) == before


def test_patterns_of_gitignore_and_fab_exclude_stay_out_as_under_flower(source: Path) -> None:
    before = set(members_of(build_bundle(source)))
    (source / "secrets.json").write_text("{}")
    (source / "notes.md").write_text("x")
    (source / ".gitignore").write_text("secrets.json\n")
    pyproject = source / "pyproject.toml"
    pyproject.write_text(
        pyproject.read_text().replace('publisher = "tests"', 'publisher = "tests"\nfab-exclude = ["notes.md"]')
    )
    assert set(members_of(build_bundle(source))) == before


def test_a_folder_that_is_no_flower_app_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="flwr new") as error:
        build_bundle(tmp_path)
    assert error.value.reason is Reason.BUNDLE_MALFORMED


@pytest.mark.parametrize(
    "text", ["[project]\nname = 'x'\n", "not toml", "[tool.flwr]\napp = 3\n[project]\nname = 'x'\n"]
)
def test_a_pyproject_without_the_flower_fields_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(AppError, match=r"pyproject\.toml"):
        build_bundle(tmp_path)


def test_an_app_beyond_ten_megabytes_is_refused(source: Path) -> None:
    (source / "big.json").write_bytes(b" " * (bundle.MAX_BUNDLE_BYTES + 1))
    with pytest.raises(AppError, match="10 MB"):
        build_bundle(source)


def test_a_name_with_a_comma_would_confuse_the_manifest_and_is_refused(source: Path) -> None:
    (source / "a,b.md").write_text("x")
    with pytest.raises(AppError, match="plain relative path"):
        build_bundle(source)


@pytest.mark.parametrize("position", [0, 30, -1])
def test_a_bundle_with_a_flipped_bit_is_refused_before_it_is_parsed(
    source: Path, tmp_path: Path, position: int
) -> None:
    data = bytearray(build_bundle(source))
    digest = bundle_digest(bytes(data))
    data[position] ^= 1
    assert refused(bytes(data), tmp_path / "app", expected=digest) is Reason.BUNDLE_DIGEST


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b"\0" + d, lambda d: b""])
def test_a_byte_short_or_long_is_refused(source: Path, tmp_path: Path, change) -> None:
    data = build_bundle(source)
    assert refused(change(data), tmp_path / "app", expected=bundle_digest(data)) is Reason.BUNDLE_DIGEST


def test_a_digest_cut_to_flowers_eight_characters_is_refused(source: Path, tmp_path: Path) -> None:
    data = build_bundle(source)
    assert refused(data, tmp_path / "app", expected=bundle_digest(data)[:4]) is Reason.BUNDLE_DIGEST


def test_an_existing_folder_is_never_reused_even_when_empty(source: Path, tmp_path: Path) -> None:
    data = build_bundle(source)
    unpack_bundle(data, expected=bundle_digest(data), into=tmp_path / "app")
    (tmp_path / "empty").mkdir()
    for folder in ("app", "empty"):
        with pytest.raises(AppError) as error:
            unpack_bundle(data, expected=bundle_digest(data), into=tmp_path / folder)
        assert error.value.reason is Reason.BUNDLE_DIGEST


def test_a_member_that_the_manifest_does_not_list_is_refused_though_flower_installs_it(
    source: Path, tmp_path: Path
) -> None:
    files = members_of(build_bundle(source))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**files, "extra.py": b"evil"}.items():
            archive.writestr(name, content)
    assert refused(buffer.getvalue(), tmp_path / "app") is Reason.BUNDLE_MALFORMED


def test_a_listed_member_that_is_missing_or_changed_is_refused(source: Path, tmp_path: Path) -> None:
    files = members_of(build_bundle(source))
    content = files.pop(".info/CONTENT")
    without = {name: data for name, data in files.items() if name != "LICENSE"}
    changed = {**files, "LICENSE": b"Another."}
    for number, wrong in enumerate((without, changed)):
        data = archive_of({**wrong, ".info/CONTENT": content}, listed=False)
        assert refused(data, tmp_path / f"app{number}") is Reason.BUNDLE_MALFORMED
    right = archive_of({**files, ".info/CONTENT": content}, listed=False)
    unpack_bundle(right, expected=bundle_digest(right), into=tmp_path / "app")


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "a/../../evil.py", "/etc/evil.py", "a//b.py", "./a.py", "a\\b.py", "C:evil.py", "a\nb.py", "a,b.py",
     "é.py", ".py/", " a.py", "a/" * 12 + "b.py", "x" * 300 + ".py"],
)  # fmt: skip
def test_a_name_that_is_not_a_plain_relative_path_is_refused(tmp_path: Path, name: str) -> None:
    data = archive_of({"pyproject.toml": b"", name: b"x"})
    assert refused(data, tmp_path / "app") is Reason.BUNDLE_MALFORMED
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])
def test_a_link_or_device_is_refused(tmp_path: Path, kind: int) -> None:
    data = archive_of({"pyproject.toml": b"/etc/passwd"}, mode=kind | 0o777)
    assert refused(data, tmp_path / "app") is Reason.BUNDLE_MALFORMED


@pytest.mark.parametrize("name", ["lib.so", "model.pkl", "run.sh", "a.pyc", "a.pth", "data.csv", "sub/LICENSE"])
def test_a_suffix_that_no_bundle_needs_is_refused(tmp_path: Path, name: str) -> None:
    assert refused(archive_of({"pyproject.toml": b"", name: b"x"}), tmp_path / "app") is Reason.BUNDLE_MALFORMED


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused_also_when_only_the_case_differs(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pyproject.toml", b"first")
        archive.writestr("pyproject.toml", b"second")
        archive.writestr(".info/CONTENT", manifest({"pyproject.toml": b"second"}))
    assert refused(buffer.getvalue(), tmp_path / "app") is Reason.BUNDLE_MALFORMED
    data = archive_of({"pyproject.toml": b"", "a.py": b"1", "A.py": b"2"})
    assert refused(data, tmp_path / "app2") is Reason.BUNDLE_MALFORMED


def test_a_member_that_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    data = archive_of({"pyproject.toml": b"", "a.py": b"1", "a.py/b.py": b"2"})
    assert refused(data, tmp_path / "app") is Reason.BUNDLE_MALFORMED


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    data = archive_of({"pyproject.toml": b"\0" * (bundle.MAX_UNPACKED_BYTES + 1)})
    assert len(data) < 100_000
    assert refused(data, tmp_path / "app") is Reason.BUNDLE_MALFORMED


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    size = 4 * 1024 * 1024
    data = archive_of({"pyproject.toml": b"\0" * size})
    lying = data.replace(size.to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != data
    assert refused(lying, tmp_path / "app") is Reason.BUNDLE_MALFORMED


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    files = {f"f{number}.py": b"" for number in range(bundle.MAX_MEMBERS + 1)}
    assert refused(archive_of({"pyproject.toml": b"", **files}), tmp_path / "app") is Reason.BUNDLE_MALFORMED


def test_a_bundle_without_pyproject_or_manifest_is_refused(tmp_path: Path) -> None:
    assert refused(archive_of({"a.py": b""}), tmp_path / "app") is Reason.BUNDLE_MALFORMED
    assert refused(archive_of({"pyproject.toml": b""}, listed=False), tmp_path / "app") is Reason.BUNDLE_MALFORMED
    assert refused(b"no zip at all", tmp_path / "app") is Reason.BUNDLE_MALFORMED


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 40))
def test_whatever_the_bytes_they_unpack_or_are_refused(tmp_path: Path, position: int, value: int, cut: int) -> None:
    data = bytearray(archive_of({"pyproject.toml": b"x = 1\n" * 9, "a/b.py": b"pass"}))
    data[position % len(data)] = value
    data = data[: len(data) - cut]
    into = tmp_path / hashlib.sha256(data).hexdigest()
    if into.exists():
        return
    with contextlib.suppress(AppError):
        unpack_bundle(bytes(data), expected=bundle_digest(bytes(data)), into=into)


def test_flower_itself_accepts_our_bundle_and_packs_the_same_files(tmp_path: Path) -> None:
    from flwr.cli.build import build_fab_from_disk
    from flwr.cli.config_utils import get_fab_metadata
    from flwr.cli.install import install_from_fab

    ours, theirs = build_bundle(EXAMPLE), build_fab_from_disk(EXAMPLE)
    assert get_fab_metadata(ours) == get_fab_metadata(theirs) == ("cloister/rand-hie", "1.0.0")
    assert list(members_of(ours)) == list(members_of(theirs))
    installed = install_from_fab(ours, install_dir=tmp_path / "flower", skip_prompt=True)
    assert (installed / "rand_hie" / "task.py").read_bytes() == (EXAMPLE / "rand_hie" / "task.py").read_bytes()


def test_we_unpack_the_bundle_that_flower_builds(tmp_path: Path) -> None:
    from flwr.cli.build import build_fab_from_disk

    data = build_fab_from_disk(EXAMPLE)
    app = unpack_bundle(data, expected=bundle_digest(data), into=tmp_path / "app")
    assert (app / "rand_hie" / "client_app.py").read_bytes() == (EXAMPLE / "rand_hie" / "client_app.py").read_bytes()


def test_the_limits_and_the_date_are_those_of_the_installed_flower() -> None:
    from flwr.common import constant

    assert constant.FAB_MAX_SIZE == bundle.MAX_BUNDLE_BYTES
    assert constant.FAB_DATE == bundle._DATE
    suffixes = {pattern.removeprefix("**/*") for pattern in constant.FAB_INCLUDE_PATTERNS if pattern.startswith("**/*")}
    assert suffixes == bundle._SUFFIXES
    assert set(constant.FAB_INCLUDE_PATTERNS) - {f"**/*{s}" for s in suffixes} == {"/LICENSE"}


def test_stored_members_do_not_depend_on_a_zlib_version(source: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(build_bundle(source))) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
