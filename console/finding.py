"""One finding of a check: what was seen, and what to do. Trust zone: operator.

A check tells what it saw, by names and numbers; never a key, a password or what stands in an environment variable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path


@unique
class Severity(Enum):
    """``WARNING``: it works, with less than one may expect. ``PROBLEM``: something that was asked for will fail."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and what to do where that is not well."""

    name: str
    severity: Severity
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """The finding as ``--json`` prints it."""
        return {"name": self.name, "severity": self.severity.value, "found": self.found, "advice": self.advice}


@dataclass(frozen=True, slots=True)
class Examined:
    """What a person asked to look at besides the machine itself; empty or None: not looked at.

    Attributes:
        state: where a coordinator would keep its state, or an enclave its logs.
        site: a worker's folder of papers.
        host_config: a host's configuration, whose stores are to be tried.
        listen: ``address:port`` that a coordinator shall serve on.
        coordinator: ``name:port`` that workers shall reach.
        ca: that coordinator's CA file.
        proxy: URL of a CONNECT proxy; it may hold a password and is never shown.
    """

    state: Path
    site: Path | None
    host_config: Path | None
    listen: str
    coordinator: str
    ca: Path | None
    proxy: str

    def __repr__(self) -> str:
        return f"Examined(state={self.state!r}, coordinator={self.coordinator!r})"


def ok(name: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(name, Severity.OK, found)


def warning(name: str, found: str, advice: str) -> Finding:
    """It works with less than one may expect."""
    return Finding(name, Severity.WARNING, found, advice)


def problem(name: str, found: str, advice: str) -> Finding:
    """Something that was asked for will fail."""
    return Finding(name, Severity.PROBLEM, found, advice)
