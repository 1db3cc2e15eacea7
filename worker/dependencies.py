"""What an app says it needs, held against what this image holds. Trust zone: worker, and the author's own machine.

An image is measured, so nothing is installed at run time: what is missing is told before the app is imported, by its
name and version, which stand in the bundle for everybody to read. Extras (``flwr[simulation]``) are not looked at:
what they bring is imported by name, or not at all.
"""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from trusted.errors import AppError, Reason

MAX_DEPENDENCIES = 256
_MAX_TEXT = 200  # of a requirement in an error


class Standing(Enum):
    """How a requirement stands in this image."""

    MET = "met"
    OTHER_VERSION = "another version"
    MISSING = "missing"
    UNREADABLE = "not a requirement that can be checked"


@dataclass(frozen=True, slots=True)
class Dependency:
    """One requirement of ``pyproject.toml``, and the version that is installed here (empty: none)."""

    requirement: str
    name: str
    standing: Standing
    installed: str = ""

    def __str__(self) -> str:
        """What a person reads."""
        match self.standing:
            case Standing.MET:
                return f"{self.requirement}: {self.installed} is here"
            case Standing.OTHER_VERSION:
                return f"{self.requirement}: this image has {self.installed}"
            case Standing.MISSING:
                return f"{self.requirement}: not in this image"
        return f"{self.requirement}: name and versions expected, from an index and not from an address"


def read_dependencies(app_dir: Path) -> tuple[Dependency, ...]:
    """``requires-python`` and ``dependencies`` of ``[project]``, each as it stands here; what another system or Python
    needs is left out.

    Raises:
        AppError: BUNDLE_MALFORMED: no such file, or dependencies that are no list of at most 256 strings.
    """
    try:
        project = tomllib.loads((app_dir / "pyproject.toml").read_text("utf-8"))["project"]
        python, listed = project.get("requires-python", ""), project.get("dependencies", [])
    except (OSError, ValueError, KeyError, AttributeError):
        raise _malformed("pyproject.toml: [project] expected") from None
    texts = isinstance(listed, list) and all(isinstance(text, str) for text in listed)
    if not texts or len(listed) > MAX_DEPENDENCIES or not isinstance(python, str):
        raise _malformed(f"pyproject.toml: dependencies: at most {MAX_DEPENDENCIES} strings expected")
    return (*_python(python), *(found for text in listed for found in _looked_up(text)))


def require_dependencies(app_dir: Path) -> None:
    """Refuse an app that needs what this image does not hold.

    Raises:
        AppError: APP_DEPENDENCY names the first such package. BUNDLE_MALFORMED.
    """
    for found in read_dependencies(app_dir):
        if found.standing is not Standing.MET:
            raise AppError(Reason.APP_DEPENDENCY, f"app bundle: dependencies: {found}")


def _python(specifier: str) -> Iterator[Dependency]:
    if not specifier:
        return
    running, said = platform.python_version(), f"python{_shown(specifier)}"
    try:
        met = SpecifierSet(specifier).contains(running, prereleases=True)
    except InvalidSpecifier:
        yield Dependency(said, "python", Standing.UNREADABLE)
        return
    yield Dependency(said, "python", Standing.MET if met else Standing.OTHER_VERSION, running)


def _looked_up(text: str) -> Iterator[Dependency]:
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        yield Dependency(_shown(text), "", Standing.UNREADABLE)
        return
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return
    said, name = _shown(str(requirement)), requirement.name
    if requirement.url is not None:
        yield Dependency(said, name, Standing.UNREADABLE)
        return
    try:
        installed = version(name)
        met = requirement.specifier.contains(Version(installed), prereleases=True)
    except PackageNotFoundError:
        yield Dependency(said, name, Standing.MISSING)
    except InvalidVersion:
        yield Dependency(said, name, Standing.UNREADABLE)
    else:
        yield Dependency(said, name, Standing.MET if met else Standing.OTHER_VERSION, installed)


def _shown(text: str) -> str:
    """``text`` as it may stand in a log: short, and nothing that steers a terminal."""
    return "".join(letter for letter in text if letter.isascii() and letter.isprintable())[:_MAX_TEXT]


def _malformed(rule: str) -> AppError:
    return AppError(Reason.BUNDLE_MALFORMED, f"app bundle: {rule}")
