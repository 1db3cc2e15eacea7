"""A virtual environment for each peer, made once and kept. Trust zone: the developer's machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.load import PeerFailed

_INSTALL_S = 1800.0
_COMPLETE = ".complete"


@dataclass(frozen=True, slots=True)
class Requirement:
    """What pip is asked for.

    Attributes:
        package: its name in the index.
        versions: newest first; a later one is taken when pip refuses those before it.
        beside: what else must be named, because the package does not.
        first: what must be there before, so that nothing else of its kind is chosen.
    """

    package: str
    versions: tuple[str, ...]
    beside: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Environment:
    """An installed peer.

    Attributes:
        python: its interpreter; the peer's commands lie beside it.
        version: what pip installed.
        refused: newer versions that were asked for first, each with pip's reason.
    """

    python: Path
    version: str
    refused: tuple[str, ...] = ()

    def command(self, name: str) -> str:
        """The path of a command of the peer."""
        return str(self.python.parent / name)

    @property
    def path(self) -> str:
        """For ``PATH``: the peer finds its own commands first."""
        return str(self.python.parent)


def prepare(cache: Path, name: str, requirement: Requirement, say: Callable[[str], None]) -> Environment:
    """The environment of peer ``name`` below ``cache``: as it is, or made now.

    Raises:
        PeerFailed: pip's reason.
    """
    refused: list[str] = []
    for version in requirement.versions:
        folder = cache / f"{name}-{version.removesuffix('.*')}"
        try:
            asked = (f"{requirement.package}=={version}", *requirement.beside)
            if not _holds(folder, asked):
                say(f"{name} {version}: installing into {folder}")
                _install(folder, asked, requirement.first)
            package = requirement.package.partition("[")[0]
            return Environment(folder / "bin" / "python", _version(folder, package), tuple(refused))
        except PeerFailed as failure:
            refused.append(f"{name} {version}: {failure.message}")
    raise PeerFailed("; ".join(refused))


def _holds(folder: Path, asked: Sequence[str]) -> bool:
    complete = folder / _COMPLETE
    return complete.exists() and complete.read_text(encoding="utf-8").split() == list(asked)


def _install(folder: Path, asked: Sequence[str], first: Sequence[str]) -> None:
    python = folder / "bin" / "python"
    if not python.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if first:
        _run([*pip, *first])
    _run([*pip, *first, *asked])
    (folder / _COMPLETE).write_text(" ".join(asked), encoding="utf-8")


def _version(folder: Path, package: str) -> str:
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    return _run([str(folder / "bin" / "python"), "-c", code, package]).strip()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"pip did not end within {_INSTALL_S:.0f} s") from None
    if done.returncode:
        raise PeerFailed(_reason(done.stderr or done.stdout))
    return done.stdout


def _reason(output: str) -> str:
    """Pip's own errors, without the list of all the versions there are."""
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")] or output.splitlines()[-3:]
    return " ".join(line.removeprefix("ERROR: ").split(" (from versions:")[0].strip() for line in errors)
