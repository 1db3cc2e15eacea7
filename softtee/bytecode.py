"""Bytecode that only the launcher wrote, for a start that is fast and still runs nothing unmeasured.

Trust zone: the platform. ``__pycache__`` beside a source is not measured, so enclaves never look there: they run with
``-X pycache_prefix`` set to a private directory named after the measured interpreter and packages. It is filled once,
by importing the heavy modules in a plain child; without it an import works too, and is only slower.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from softtee.digests import locked, private_directory
from softtee.measure import Interpreter, Parts

_COMPLETE = "complete"
_PRIME_TIMEOUT_S = 300
_PRIME = """
import importlib, os, sys
os.umask(0o022)
sys.path.append(sys.argv[1])
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except Exception:
        pass
"""


def bytecode_directory(state: Path, parts: Parts) -> Path:
    """Where the bytecode of this interpreter and these packages lies: other packages, another directory."""
    key = hashlib.sha256(f"{parts.interpreter} {parts.site}".encode("ascii")).hexdigest()[:32]
    directory = private_directory(state / "bytecode") / key
    directory.mkdir(mode=0o755, exist_ok=True)  # entered by the enclave's user, through a bind
    return directory


def prime(directory: Path, interpreter: Interpreter, modules: tuple[str, ...], environment: dict[str, str]) -> None:
    """Fill ``directory`` by importing ``modules`` once; later calls for the same modules do nothing.

    A module that cannot be imported is left out: the enclave that needs it will say so itself.
    """
    name = hashlib.sha256(" ".join(modules).encode()).hexdigest()[:16]
    marker = directory.parent / f"{directory.name}.{name}.{_COMPLETE}"
    with locked(directory.parent / "prime.lock"):
        if marker.exists() or not modules:
            return
        command = [str(interpreter.executable), "-I", "-S", "-X", f"pycache_prefix={directory}", "-c", _PRIME]
        subprocess.run(
            [*command, str(interpreter.site), *modules],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PRIME_TIMEOUT_S,
            check=False,
        )
        marker.touch()
