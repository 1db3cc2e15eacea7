"""What identifies an enclave of the software TEE: docs/protocol.md §3.2. Trust zone: the platform.

The measurement is SHA-384 over the canonical JSON of six digests. Each says which promise a change breaks: other code,
another interpreter, another launcher, other pinned versions, another role, other installed packages.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path

from softtee.archive import archive
from softtee.digests import DigestCache, TreeEntry
from softtee.program import PROGRAMS, PROJECT_NAMES, REPOSITORY, Program
from trusted.evidence.boot import Role
from trusted.wire import encode_json, pack

LOCK = REPOSITORY / "constraints.txt"
_MAX_LOCK_BYTES = 4 << 20
# Package metadata that names this machine's paths and is never executed; everything else in site-packages counts.
_MACHINE_METADATA = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that runs enclaves: the real executable (no virtual environment's link), its library and packages."""

    executable: Path
    library: Path | None
    prefix: Path
    standard_library: Path
    site: Path

    @classmethod
    def running(cls) -> Interpreter:
        """The interpreter of this process, with the site-packages of its environment."""
        paths = sysconfig.get_paths()
        name, directory = sysconfig.get_config_var("INSTSONAME"), sysconfig.get_config_var("LIBDIR")
        library = Path(str(directory)) / str(name)
        executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        return cls(
            executable=executable,
            library=library if ".so" in str(name) and library.is_file() else None,
            prefix=Path(sys.base_prefix),
            standard_library=Path(paths["stdlib"]),
            site=Path(paths["purelib"]),
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """The six digests (SHA-384, hexadecimal) that a measurement is made of."""

    code: str
    interpreter: str
    launcher: str
    lock: str
    role: str
    site: str

    def encode(self) -> bytes:
        """Their canonical JSON, of which a measurement is the SHA-384."""
        return encode_json(asdict(self))


@dataclass(frozen=True, slots=True)
class Measurement:
    """``value``: 48 bytes, what evidence carries as ``measurement``; ``parts``: what it was computed from."""

    value: bytes
    parts: Parts

    @classmethod
    def of(cls, parts: Parts) -> Measurement:
        """SHA-384 over the canonical JSON of ``parts``."""
        return cls(hashlib.sha384(parts.encode()).digest(), parts)


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement together with the very bytes of code that it covers, which are the bytes to run."""

    measurement: Measurement
    code: bytes
    launcher: bytes


def default_state() -> Path:
    """Where this user's launcher keeps digests and bytecode: ``$XDG_STATE_HOME/cloister/softtee``, private."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "cloister" / "softtee"


def measure(
    role: Role,
    *,
    program: Program | None = None,
    lock: Path = LOCK,
    cache: DigestCache | None = None,
    interpreter: Interpreter | None = None,
) -> Measurement:
    """The measurement of ``role`` as this machine would start it now. Needs no root and starts nothing.

    The first call reads every installed byte (seconds for torch); later ones only look whether files changed.

    Raises:
        ValueError: the lock, a package or a measured directory is missing, or a file changed under the reader.
    """
    return measured(role, program=program, lock=lock, cache=cache, interpreter=interpreter).measurement


def measured(
    role: Role,
    *,
    program: Program | None = None,
    lock: Path = LOCK,
    cache: DigestCache | None = None,
    interpreter: Interpreter | None = None,
) -> Measured:
    """As :func:`measure`, with the archives that were measured."""
    program = program or PROGRAMS[role]
    cache = cache or DigestCache(default_state())
    interpreter = interpreter or Interpreter.running()
    code, launcher = archive(program.root, program.packages), archive(REPOSITORY, ("softtee",))
    parts = Parts(
        code=_sha384(code),
        interpreter=_interpreter(interpreter, cache),
        launcher=_sha384(launcher),
        lock=_sha384(_read_lock(lock)),
        # The entry stands here, so that the same code started elsewhere is not the same enclave.
        role=_sha384(pack("cloister/role/v1", role.value.encode(), program.entry.encode())),
        site=cache.tree(interpreter.site, skip=_skipped_in_site).hex(),
    )
    return Measured(Measurement.of(parts), code, launcher)


def _sha384(data: bytes) -> str:
    return hashlib.sha384(data).hexdigest()


def _read_lock(path: Path) -> bytes:
    try:
        with path.open("rb") as source:
            data = source.read(_MAX_LOCK_BYTES + 1)
    except OSError as error:
        raise ValueError(
            f"lock {path}: cannot be read ({error.strerror}); it pins every installed version and is part of the "
            "measurement: use the repository's constraints.txt, or name another file"
        ) from None
    if len(data) > _MAX_LOCK_BYTES:
        raise ValueError(f"lock {path}: more than {_MAX_LOCK_BYTES} bytes")
    return data


def _interpreter(interpreter: Interpreter, cache: DigestCache) -> str:
    """One digest over the executable, libpython where there is one, and the standard library."""
    files = [path.resolve() for path in (interpreter.executable, interpreter.library) if path is not None]
    library = cache.tree(interpreter.standard_library, skip=_skipped_in_standard_library)
    digests = cache.files([TreeEntry.of(path) for path in files], interpreter.executable)
    binaries = [bytes.fromhex(digests[str(path)]) for path in files]
    return _sha384(pack("cloister/interpreter/v1", library, *binaries))


def _is_bytecode(name: str) -> bool:
    """Bytecode is not measured, and the boot shim makes sure that none from these directories is ever loaded."""
    return name.endswith((".pyc", "__pycache__"))


def _skipped_in_standard_library(name: str) -> bool:
    return _is_bytecode(name) or name in ("site-packages", "dist-packages")


def _skipped_in_site(name: str) -> bool:
    """Bytecode, machine-bound metadata, and this project itself: its code is measured apart, as an archive."""
    if _is_bytecode(name) or name in PROJECT_NAMES or name.startswith(("__editable__", "cloister-", "cloister.")):
        return True
    directory, _, file = name.rpartition("/")
    return directory.endswith(".dist-info") and file in _MACHINE_METADATA
