"""Checks of what can protect a worker here: a TEE's device, or the software TEE's limits. Trust zone: operator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from console.diagnosis import Finding, ok, warning
from softtee.program import REPOSITORY
from softtee.surroundings import own_mounts_possible
from trusted.confinement import Feature, landlock_abi
from trusted.evidence.configfs_tsm import REPORT_DIRECTORY

# What else a confidential machine may show. This release takes evidence from configfs-tsm alone.
_OTHER_DEVICES: Mapping[str, str] = MappingProxyType(
    {
        "/dev/sev-guest": "an SEV-SNP guest whose kernel has no configfs-tsm (Linux 6.7 or later has it)",
        "/dev/tdx_guest": "an Intel TDX guest",
        "/dev/nsm": "an AWS Nitro enclave",
        "/dev/attestation/quote": "Gramine on Intel SGX",
        "/dev/sev": "a host that can start SEV-SNP guests, which is no such guest itself",
        "/dev/kvm": "a host that can start virtual machines",
    }
)
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
    name = "tee device"
    supported = root / REPORT_DIRECTORY.relative_to("/")
    if supported.is_dir():
        return ok(name, f"{REPORT_DIRECTORY}: use --tee hardware; `cloister attest collect --tee hardware` tries it")
    present = [device for device in _OTHER_DEVICES if (root / device.lstrip("/")).exists()]
    looked = f"none; looked for {', '.join((str(REPORT_DIRECTORY), *_OTHER_DEVICES))}"
    seen = "; ".join(f"{device}: {_OTHER_DEVICES[device]}" for device in present)
    advice = (
        "This machine proves nothing about itself: real data needs a confidential virtual machine (SEV-SNP). "
        "For trials, --tee software works here with NO HARDWARE PROTECTION."
    )
    return warning(name, f"no {REPORT_DIRECTORY}; {seen}" if seen else looked, advice)


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


def _held() -> list[str] | None:
    """The limits that a child of this process truly got; None where none can be had."""
    command = [sys.executable, "-P", "-c", _CONFINE, str(REPOSITORY)]
    try:
        child = subprocess.run(command, capture_output=True, check=True, timeout=_CONFINED_TIMEOUT_S)
        return [str(feature) for feature in json.loads(child.stdout)]
    except (subprocess.SubprocessError, OSError, ValueError):
        return None
