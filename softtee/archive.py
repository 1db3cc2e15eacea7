"""A deterministic archive of sources: the bytes that are hashed are the bytes that run. Trust zone: the platform."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_MAX_ARCHIVE_BYTES = 64 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)


def archive(root: Path, packages: tuple[str, ...]) -> bytes:
    """A ZIP of every ``.py`` file of ``packages`` below ``root``: sorted, stored, no times, no modes, nothing else.

    Raises:
        ValueError: a package that is not there, a symbolic link among the sources, or far too much.
    """
    files: dict[str, bytes] = {}
    for package in packages:
        path = root / package
        sources = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        if not sources or not all(source.is_file() for source in sources):
            raise ValueError(f"program: {package} is not below {root}, or holds no .py file")
        for source in sources:
            if source.is_symlink():
                raise ValueError(f"program: {source} is a symbolic link; measured code must be plain files")
            files[source.relative_to(root).as_posix()] = source.read_bytes()
    if sum(map(len, files.values())) > _MAX_ARCHIVE_BYTES:
        raise ValueError(f"program: more than {_MAX_ARCHIVE_BYTES} bytes of sources")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as output:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # or the bytes would differ between operating systems
            output.writestr(entry, files[name])
    return buffer.getvalue()


def member(archived: bytes, name: str) -> bytes:
    """The source ``name`` out of an archive made here."""
    with zipfile.ZipFile(io.BytesIO(archived)) as opened:
        return opened.read(name)
