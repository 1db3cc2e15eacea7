"""Checks of the machine itself: Python, packages, clock, randomness, disk. Trust zone: operator."""

from __future__ import annotations

import os
import platform as machine
import re
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

from console.finding import Finding, ok, problem, warning
from softtee.measure import LOCK

_PYTHONS = ((3, 11), (3, 14))  # pyproject.toml: requires-python
_ARCHITECTURES = ("x86_64", "aarch64")
_RELEASED = datetime(2026, 1, 1, tzinfo=UTC)  # no machine that runs this release can be at an earlier time
_FAR = datetime(2100, 1, 1, tzinfo=UTC)
_LOOK_S = 0.2
_MAX_DRIFT_S = 0.05
_SCARCE_BYTES, _LITTLE_BYTES = 1 << 30, 10 << 30
_INSTALLERS = frozenset({"pip", "setuptools", "wheel", "cloister"})
_NAMED = 5


def python_version() -> Finding:
    """The interpreter is one that the release is made for."""
    low, high = _PYTHONS
    found = machine.python_version()
    if low <= sys.version_info[:2] < high:
        return ok("python", found)
    wanted = f"{low[0]}.{low[1]} or later, below {high[0]}.{high[1]}"
    return problem("python", found, f"Install Python {wanted}, and Cloister with it.")


def platform() -> Finding:
    """Enclaves need Linux; documents can be made and signed anywhere."""
    found = f"{machine.system()} {machine.machine()}, kernel {machine.release()}"
    if machine.system() == "Linux" and machine.machine() in _ARCHITECTURES:
        return ok("platform", found)
    advice = f"Sign documents here, and run workers and aggregators on Linux ({' or '.join(_ARCHITECTURES)})."
    return warning("platform", found, advice)


def packages(lock: Path = LOCK) -> Finding:
    """What is installed is what the lock pins; both go into a software enclave's measurement."""
    try:
        pinned = read_lock(lock.read_text(encoding="utf-8"))
    except OSError as error:
        return problem("packages", f"{lock}: {error.strerror}", "Install Cloister from its repository, with its lock.")
    installed = {canonical(item.name): item.version for item in distributions()}
    wrong = sorted(name for name, version in installed.items() if not satisfies(version, pinned.get(name, version)))
    extra = sorted(set(installed) - set(pinned) - _INSTALLERS)
    found = f"{len(set(installed) & set(pinned))} of the lock's {len(pinned)} packages are installed"
    if wrong:
        found += f"; {len(wrong)} at another version: {_some(wrong)}"
    if extra:
        found += f"; {len(extra)} that the lock does not name: {_some(extra)}"
    if not wrong and not extra:
        return ok("packages", found)
    return warning("packages", found, f"Measurements will differ from other sites': pip install -r {lock.name} afresh.")


def read_lock(text: str) -> Mapping[str, str]:
    """Version by canonical name, from lines of ``name==version``."""
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines())
    pins = (line.partition("==") for line in lines)
    return {canonical(name.strip()): version.strip() for name, pin, version in pins if pin}


def satisfies(version: str, pin: str) -> bool:
    """A pin without a local label means every build of that version (PEP 440): 2.13.0 is 2.13.0+cpu."""
    return pin in (version, version.partition("+")[0])


def canonical(name: str) -> str:
    """A package's name in its one spelling (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def clock(present: datetime) -> Finding:
    """``present`` is a possible time, and this machine's wall clock runs as fast as its steady one.

    Nothing is asked over the network. Evidence, certificates and documents have dates: a wrong clock refuses them all.
    """
    steady, wall = time.monotonic(), time.time()
    time.sleep(_LOOK_S)
    drift_s = abs((time.time() - wall) - (time.monotonic() - steady))
    found = f"{present:%Y-%m-%d %H:%M:%S} UTC"
    if not _RELEASED <= present < _FAR:
        return problem("clock", found, "Set the clock (timedatectl set-ntp true); every certificate depends on it.")
    if drift_s > _MAX_DRIFT_S:
        jumped = f"{found}; it moved {drift_s:.2f} s against the steady clock within {_LOOK_S} s"
        return warning("clock", jumped, "Something sets the clock right now: wait until time synchronisation is done.")
    return ok("clock", found)


def entropy() -> Finding:
    """The kernel's random numbers are ready; keys are drawn from nothing else."""
    if not hasattr(os, "getrandom"):
        return ok("entropy", "the system's generator")
    try:
        os.getrandom(32, os.GRND_NONBLOCK)
    except BlockingIOError:
        advice = "Wait, or give a virtual machine a virtio-rng device: no key should be made yet."
        return problem("entropy", "the kernel's generator is not seeded yet", advice)
    return ok("entropy", "the kernel's generator is seeded")


def disk(state: Path) -> Finding:
    """There is room for sealed blobs at ``state``, or at the nearest folder above it that exists."""
    place = next(path for path in (state.absolute(), *state.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.1f} GB free at {place}"
    if not os.access(place, os.W_OK):
        return problem("disk", f"{found}, not writable", "Choose another folder with --state, or change its owner.")
    advice = "A host stores every sealed update of a run: free some space, or choose another folder with --state."
    if free < _SCARCE_BYTES:
        return problem("disk", found, advice)
    return warning("disk", found, advice) if free < _LITTLE_BYTES else ok("disk", found)
