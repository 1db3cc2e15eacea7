"""Flower App Bundles: built the same everywhere, unpacked only when every byte is the approved one.

Trust zone: every TEE that runs an app, and consoles.

A bundle is a zip in Flower's FAB form (flwr 1.41, ``cli/build.py``): ``pyproject.toml``, the app's files, and
``.info/CONTENT`` with one line ``path,sha256,bits`` for each. Flower itself trusts 32 bits of its digest, reuses
folders that may have been changed, and installs members that the manifest does not list. Here the whole digest is
checked before a byte is parsed, the manifest must list exactly the members, and the folder is always a new one.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import tomllib
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from trusted.errors import AppError, Reason

MAX_BUNDLE_BYTES = 10 * 1024 * 1024  # Flower's own limit
MAX_UNPACKED_BYTES = 32 * 1024 * 1024  # stops a bomb: deflate can write a thousand bytes for one
MAX_MEMBERS = 1000
_SUFFIXES = frozenset({".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl"})
_WITHOUT_SUFFIX = "LICENSE"
_CONFIG, _MANIFEST = "pyproject.toml", ".info/CONTENT"
_EXCLUDED_FOLDERS = frozenset({".flwr", "__pycache__", ".venv", "venv", "env", "ENV", "env.bak", "venv.bak", ".git"})
_EXCLUDED_AT_ROOT = frozenset({"build", "eggs", ".eggs", "lib", "lib64", "parts"})
_TEST = re.compile(r"test_.*\.py|.*_test\.py")
# No comma (the manifest's separator), no backslash or colon (other systems' paths), no space at an end.
_PART = re.compile(r"[A-Za-z0-9_.+@=-]([A-Za-z0-9_.+@= -]{0,126}[A-Za-z0-9_.+@=-])?")
_MAX_DEPTH = 10
_DATE = (2024, 10, 1, 0, 0, 0)  # Flower's FAB_DATE
_ENCRYPTED = 0x1


def bundle_digest(data: bytes) -> bytes:
    """SHA-256 of the whole bundle, 32 bytes: ``plan.app.bundle_sha256``."""
    return hashlib.sha256(data).digest()


def build_bundle(app_dir: Path) -> bytes:
    """The bundle of the Flower app in ``app_dir``: the same bytes for the same files, on every machine.

    Members are stored, not deflated (two zlib versions need not agree). Links, tests, caches and other suffixes stay
    out, and so does what ``.gitignore`` and ``fab-include``/``fab-exclude`` leave out.

    Raises:
        AppError: BUNDLE_MALFORMED: not a Flower app, a name that cannot be told, or more than 10 MB.
    """
    config = _read_config(app_dir)
    files = {_CONFIG: (app_dir / _CONFIG).read_bytes()}
    for path in sorted(_chosen(app_dir, config)):
        files[path] = (app_dir / path).read_bytes()
        if sum(map(len, files.values())) > MAX_BUNDLE_BYTES:
            raise _malformed("the app's files together are larger than 10 MB; leave data out of the app")
    if len(files) > MAX_MEMBERS:
        raise _malformed(f"more than {MAX_MEMBERS} files")
    manifest = "\n".join(f"{path},{hashlib.sha256(data).hexdigest()},{len(data) * 8}" for path, data in files.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, data in {**files, _MANIFEST: manifest.encode()}.items():
            info = zipfile.ZipInfo(path, _DATE)
            info.create_system = 3  # Unix, wherever this runs
            info.external_attr = (stat.S_IFREG | 0o600) << 16
            archive.writestr(info, data)
    if len(buffer.getvalue()) > MAX_BUNDLE_BYTES:
        raise _malformed("larger than 10 MB")
    return buffer.getvalue()


def unpack_bundle(data: bytes, *, expected: bytes, into: Path) -> Path:
    """Unpack ``data``, whose bearer may be lying, into the new folder ``into``; afterwards ``into`` holds just the app.

    1. The SHA-256 of all bytes is ``expected``. 2. Every member has a plain name, an allowed suffix and a bounded size,
    and is no link. 3. The manifest lists exactly these members, with their digests. 4. ``into`` did not exist before.

    Raises:
        AppError: BUNDLE_DIGEST: other bytes, or a folder that was there already. BUNDLE_MALFORMED: any other rule.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise _malformed("larger than 10 MB")
    if bundle_digest(data) != expected:
        raise AppError(Reason.BUNDLE_DIGEST, "app bundle: its SHA-256 is not the one that the plan names")
    files = _read_members(data)
    _check_manifest(files)
    try:
        into.mkdir(mode=0o700)
    except FileExistsError:
        raise AppError(Reason.BUNDLE_DIGEST, "app folder: exists already; what lies in it was not checked") from None
    for path, content in files.items():
        target = into / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    return into


def _malformed(rule: str) -> AppError:
    return AppError(Reason.BUNDLE_MALFORMED, f"app bundle: {rule}")


def _read_config(app_dir: Path) -> Mapping[str, Any]:
    try:
        config = tomllib.loads((app_dir / _CONFIG).read_text("utf-8"))
        app = config["tool"]["flwr"]["app"]
        complete = bool(config["project"]["name"] and app["publisher"] and app["components"]["clientapp"])
    except FileNotFoundError:
        raise _malformed("no pyproject.toml; name the folder of a Flower app, as `flwr new` makes it") from None
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise _malformed("pyproject.toml: [project] name and [tool.flwr.app] publisher, components.clientapp expected")
    return app if isinstance(app, Mapping) else {}


def _chosen(app_dir: Path, app: Mapping[str, Any]) -> list[str]:
    paths = []
    for folder, folders, names in os.walk(app_dir, followlinks=False):
        here = PurePosixPath(Path(folder).relative_to(app_dir).as_posix())
        at_root = here == PurePosixPath(".")
        folders[:] = [f for f in folders if f not in _EXCLUDED_FOLDERS and not (at_root and f in _EXCLUDED_AT_ROOT)]
        paths += [str(here / name) for name in names if not (Path(folder) / name).is_symlink()]
    candidates = _not_ignored(app_dir, app, paths)
    chosen = [path for path in candidates if path != _CONFIG and _suffix_allowed(path) and not _is_test(path)]
    for path in chosen:
        _check_name(path)
    return chosen


def _not_ignored(app_dir: Path, app: Mapping[str, Any], paths: list[str]) -> Iterable[str]:
    """Apply the patterns of ``.gitignore``, ``fab-include`` and ``fab-exclude`` where the app has any."""
    ignored = app_dir / ".gitignore"
    patterns = ignored.read_text("utf-8").splitlines() if ignored.is_file() else []
    include, exclude = app.get("fab-include"), [*patterns, *app.get("fab-exclude", ())]
    if not exclude and include is None:
        return paths
    try:
        import pathspec
    except ImportError:
        raise _malformed("this app has .gitignore or fab-include patterns: install `flwr`, which reads them") from None
    if include is not None:
        paths = list(pathspec.PathSpec.from_lines("gitwildmatch", include).match_files(paths))
    return pathspec.PathSpec.from_lines("gitwildmatch", exclude).match_files(paths, negate=True)


def _is_test(path: str) -> bool:
    return _TEST.fullmatch(path.rpartition("/")[2]) is not None


def _suffix_allowed(path: str) -> bool:
    return path == _WITHOUT_SUFFIX or PurePosixPath(path).suffix in _SUFFIXES


def _check_name(path: str) -> None:
    parts = path.split("/")
    plain = all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)
    if not plain or len(parts) > _MAX_DEPTH:
        raise _malformed("a member's name is not a plain relative path of letters, digits and _.+@=-")


def _read_members(data: bytes) -> dict[str, bytes]:
    """Every member by name, read with its size bounded before and while it is inflated."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(members)
            return {member.filename: _inflate(archive, member) for member in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError):
        raise _malformed("not a whole zip archive") from None


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    if not 0 < len(members) <= MAX_MEMBERS + 1:
        raise _malformed(f"1 to {MAX_MEMBERS} members expected")
    if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
        raise _malformed("unpacks to more than 32 MiB")
    if len({member.filename.casefold() for member in members}) != len(members):
        raise _malformed("two members have the same name")
    folders = {str(parent) for member in members for parent in PurePosixPath(member.filename).parents}
    if not folders.isdisjoint(member.filename for member in members):
        raise _malformed("a member's name is also the folder of another")
    for member in members:
        _check_name(member.filename)
        if member.filename != _MANIFEST and not _suffix_allowed(member.filename):
            raise _malformed("a member is neither source, text, configuration nor LICENSE")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            raise _malformed("a member is a link or a device")
        if member.flag_bits & _ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _malformed("a member is encrypted, or compressed with something else than deflate")


def _inflate(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        content = file.read(member.file_size + 1)
    if len(content) != member.file_size:
        raise _malformed("a member has another size than it says")
    return content


def _check_manifest(files: dict[str, bytes]) -> None:
    """Take the manifest out of ``files`` and hold the rest against it, both ways."""
    manifest = files.pop(_MANIFEST, b"")
    lines = [f"{path},{hashlib.sha256(data).hexdigest()},{len(data) * 8}" for path, data in files.items()]
    if sorted(manifest.decode("utf-8", "replace").split("\n")) != sorted(lines):
        raise _malformed(".info/CONTENT does not list exactly the members with their digests")
    if _CONFIG not in files:
        raise _malformed("no pyproject.toml")
