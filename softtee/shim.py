"""The first code in an enclave's process: it runs from a sealed descriptor, and only the standard library is imported.

Trust zone: the platform (measured as ``launcher``). Order matters: 1. nothing unmeasured can be imported; 2. it
leaves the host's view and user; 3. measured code, and it alone, is importable under the project's names; 4. it confines
itself; 5. the launcher learns what took effect; 6. the entry runs. Started as ``python -I -S -B <this> <start>``, both
arguments being paths of sealed memory.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import socket
import sys
import threading
import traceback
import types
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MAX_START_BYTES = 1 << 20
EXIT_FAILED = 70


class MeasuredFinder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the project's names from measured sources in memory, or not at all, whatever lies on any path."""

    def __init__(self, sources: Mapping[str, bytes], names: Sequence[str]) -> None:
        """``sources`` by archive name; ``names``: the top-level names that nothing else may provide."""
        self._sources = sources
        self._names = frozenset(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for a measured module; ModuleNotFoundError for another one under the project's names."""
        if fullname.partition(".")[0] not in self._names:
            return None
        stem = fullname.replace(".", "/")
        is_folder = any(name.startswith(f"{stem}/") for name in self._sources)
        if f"{stem}.py" not in self._sources and not is_folder:
            raise ModuleNotFoundError(f"{fullname} is not among the measured code of this enclave", name=fullname)
        return importlib.util.spec_from_loader(fullname, self, origin=f"measured:{stem}", is_package=is_folder)

    def is_package(self, fullname: str) -> bool:
        """Whether ``fullname`` is a folder; one without ``__init__.py`` is an empty package."""
        return f"{fullname.replace('.', '/')}.py" not in self._sources

    def get_source(self, fullname: str) -> str:
        """The measured source; empty for a folder without ``__init__.py``."""
        stem = fullname.replace(".", "/")
        return self._sources.get(f"{stem}.py", self._sources.get(f"{stem}/__init__.py", b"")).decode()

    def get_code(self, fullname: str) -> types.CodeType:
        """Compiled at every start, from memory: there is no bytecode of measured code to tamper with."""
        name = f"measured:{fullname.replace('.', '/')}.py"
        return compile(self.get_source(fullname), name, "exec", dont_inherit=True)


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def _sources(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def _only_sources_and_extensions(site: str) -> None:
    """Import from the standard library and ``site`` alone, and never a ``.pyc`` that lies beside a source.

    The site digest leaves bytecode out, so the loader of sourceless bytecode goes, and so does that of archives. Cached
    bytecode comes from ``-X pycache_prefix``, which the launcher filled and this process cannot write.
    """
    loaders = (
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES),
    )
    sys.path_hooks[:] = [importlib.machinery.FileFinder.path_hook(*loaders)]
    sys.path_importer_cache.clear()
    sys.path[:] = [*(path for path in sys.path if os.path.isdir(path)), site]


def _report(kind: type[BaseException], error: BaseException | None, trace: types.TracebackType | None) -> None:
    """One JSON line: the kind of an error and where it rose, never its text, which may quote data or keys."""
    where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(trace)[-6:]]
    # A numbered reason (trusted/errors.py) names a field and a rule by contract, so its text may be shown.
    detail = str(error) if hasattr(error, "reason") and hasattr(error, "detail") else kind.__name__
    if isinstance(error, ImportError):
        detail = f"{detail}: {error.name}"
    sys.stderr.write(json.dumps({"event": "enclave-failed", "reason": detail, "where": where}) + "\n")
    sys.stderr.flush()


def _confine(limits: Mapping[str, Any]) -> list[str]:
    from trusted.confinement import Confinement, confine

    ports = limits["connect_ports"]
    held = confine(
        Confinement(
            readable=tuple(map(Path, limits["readable"])),
            writable=tuple(map(Path, limits["writable"])),
            connect_ports=None if ports is None else tuple(ports),
            allow_exec=False,
            listen_ports=tuple(limits["listen_ports"]),
        )
    )
    return [feature.value for feature in held]


def _provider(start: Mapping[str, Any]) -> Any:
    """Where this enclave asks for evidence: its platform, and the TPM that it was given, if any."""
    from trusted.evidence.software import PlatformEvidence

    platform = PlatformEvidence(socket.socket(fileno=start["platform"]))
    if start["tpm_quotes"] is None:
        return platform

    from trusted.attestation.formats.tcg_event_log import Bank
    from trusted.evidence.devices import TpmDevice, WithDevices
    from trusted.evidence.tpm import PcrChoice, TpmEvidence
    from trusted.evidence.tpm_client import TpmClient
    from trusted.evidence.tpm_transport import SocketTransport

    quotes = start["tpm_quotes"]
    tpm = TpmEvidence(
        TpmClient(SocketTransport(socket.socket(fileno=start["tpm"]))),
        PcrChoice(Bank[quotes["bank"]], tuple(quotes["indexes"])),
        certificates=[bytes.fromhex(der) for der in quotes["certificates"]],
        event_log=Path(f"/proc/self/fd/{start['tpm_log']}"),
    )
    return WithDevices(platform, TpmDevice(tpm))


def _enter(start: Mapping[str, Any]) -> int:
    """Steps 1 to 6 of the module's docstring; the entry's exit status."""
    _only_sources_and_extensions(start["site"])
    launcher = _sources(_read(start["launcher"]))
    features: list[str] = []
    isolation = types.ModuleType("isolation")
    exec(compile(launcher["softtee/isolation.py"], "measured:softtee/isolation.py", "exec"), isolation.__dict__)  # noqa: S102
    features += isolation.isolate(start["isolation"])
    sys.meta_path.insert(0, MeasuredFinder(_sources(_read(start["code"])), start["names"]))
    features += _confine(start["limits"])
    # The signal of the parent's death was asked for just now; a parent that died before that would never send it.
    if os.getppid() != start["parent"]:
        return EXIT_FAILED
    os.write(start["status"], json.dumps(features).encode())
    os.close(start["status"])

    from trusted.evidence.boot import decode_boot

    boot = decode_boot(_read(start["boot"]), _provider(start))
    module, _, function = start["entry"].partition(":")
    return int(getattr(importlib.import_module(module), function)(boot))


def main() -> int:
    """Start what the sealed start document says. Any failure is one line in the log and a status that is not 0."""
    os.umask(0o077)
    sys.excepthook = _report
    threading.excepthook = lambda failed: _report(failed.exc_type, failed.exc_value, failed.exc_traceback)
    with open(sys.argv[1], "rb") as file:
        start = json.loads(file.read(_MAX_START_BYTES))
    sys.argv[:] = ["enclave"]
    try:
        return _enter(start)
    except Exception as error:
        _report(type(error), error, error.__traceback__)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
