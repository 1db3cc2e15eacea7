"""Checks of what can protect a worker here: a TEE's device, or the software TEE's limits. Trust zone: operator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from console.finding import Finding, ok, warning
from softtee import swtpm
from softtee.program import REPOSITORY
from softtee.surroundings import own_mounts_possible
from trusted.confinement import Feature, landlock_abi
from trusted.errors import TeeError
from trusted.evidence.detection import survey

_CONFINED_TIMEOUT_S = 30
# In a child, because a limit cannot be taken back. It tells what truly took effect, not what the kernel may offer.
_CONFINE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from trusted.confinement import Confinement, confine
held = confine(Confinement((Path("/usr"),), (), (), False))
print(json.dumps([feature.value for feature in held]))
"""
_NEEDED = (
    Feature.FILES,
    Feature.SYSTEM_CALLS,
    Feature.NO_IP_SOCKETS,
    Feature.NOT_DUMPABLE,
    Feature.NO_NEW_PRIVILEGES,
    Feature.DIES_WITH_PARENT,
)


def tee_device(root: Path = Path("/")) -> Finding:
    """Whether this machine can attest with hardware; ``root`` is where to look."""
    name, looked = "tee device", survey(root)
    present = [source for source in looked if source.present]
    if present:
        best = present[0]
        others = f"; also {', '.join(source.name for source in present[1:])}" if present[1:] else ""
        found = f"{best.name} at {best.looked_for}: {best.detail}{others}"
        return ok(name, f"{found}. `cloister attest collect --tee hardware` tries it")
    advice = (
        "This machine proves nothing about itself: real data needs a confidential virtual machine or an enclave. "
        "For trials, --tee software works here with NO HARDWARE PROTECTION."
    )
    return warning(name, f"none; looked for {', '.join(source.looked_for for source in looked)}", advice)


def software_tee() -> Finding:
    """Which limits the software TEE can put on an enclave here. They hold a bug, and no administrator."""
    name = "software tee"
    held = _held()
    if held is None:
        advice = "Use Linux 5.13 or later on x86_64 or aarch64; trials elsewhere would run unconfined."
        return warning(name, "a process could not be confined", advice)
    mounts = "own mounts, user and network" if own_mounts_possible() else "no mounts of its own"
    found = f"{mounts}; Landlock ABI {landlock_abi()}; {', '.join(held)}"
    missing = [feature.value for feature in _NEEDED if feature.value not in held]
    if missing:
        advice = "Use a newer kernel with Landlock and seccomp enabled; an enclave tells at its start what limits it."
        return warning(name, f"{found}; missing: {', '.join(missing)}", advice)
    if not own_mounts_possible():
        advice = "Start it as root, where mounts are allowed, to give enclaves a user and file systems of their own."
        return warning(name, found, advice)
    return ok(name, found)


def software_tpm() -> Finding:
    """Whether a software TEE could have a TPM here. Nothing needs one, unless a charter asks for it."""
    name = "software tpm"
    try:
        return ok(name, f"{swtpm.version()}. `cloister tee chip --tpm` makes one, with NO HARDWARE PROTECTION")
    except TeeError:
        return ok(name, "none: only charters that ask for software TPMs need swtpm (apt install swtpm)")


def _held() -> list[str] | None:
    """The limits that a child of this process truly got; None where none can be had."""
    command = [sys.executable, "-P", "-c", _CONFINE, str(REPOSITORY)]
    try:
        child = subprocess.run(command, capture_output=True, check=True, timeout=_CONFINED_TIMEOUT_S)
        return [str(feature) for feature in json.loads(child.stdout)]
    except (subprocess.SubprocessError, OSError, ValueError):
        return None
