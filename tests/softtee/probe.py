"""What a test enclave runs: tries what ``options`` name and logs one JSON line. It runs as measured code."""

from __future__ import annotations

import functools
import importlib
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trusted.confinement import Confinement, confine
from trusted.evidence.boot import Boot


def outcome(action: Callable[[], Any]) -> str:
    """``allowed``, or the name of what stopped it."""
    try:
        action()
    except BaseException as error:
        return type(error).__name__
    return "allowed"


def each(options: dict[str, Any], name: str, action: Callable[[str], Any]) -> dict[str, str]:
    """The outcome of ``action`` for every item that ``options`` lists under ``name``."""
    return {item: outcome(functools.partial(action, item)) for item in options.get(name, [])}


def in_child(action: Callable[[], Any]) -> str:
    """The outcome of ``action`` in a forked child that confined itself anew, more widely than its parent."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        confine(Confinement(readable=(), writable=(), connect_ports=None, allow_exec=True))
        os.write(write_end, outcome(action).encode())
        os._exit(0)
    os.close(write_end)
    result = os.read(read_end, 100).decode()
    os.waitpid(child, 0)
    return result


def create(path: str) -> None:
    """Make a file and remove it again."""
    with open(path, "x") as file:
        file.write("x")
    os.unlink(path)


def connect(path: str) -> None:
    """Say hello on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(path)
        door.sendall(b"hello")


def main(boot: Boot) -> int:
    """Try everything; the status is 42, so that a test sees that this very code ran."""
    options = boot.options
    found: dict[str, Any] = {
        "role": boot.role.value,
        "documents": [boot.charter.decode(), boot.plan.decode()],
        "evidence": boot.provider.evidence(bytes.fromhex(options["report_data"])).encode().hex(),
        "origin": getattr(sys.modules[Boot.__module__].__spec__, "origin", None),
        "ip": outcome(lambda: socket.socket(socket.AF_INET)),
        "exec": outcome(lambda: os.execv("/bin/true", ["true"])),
        "environment": sorted(os.environ),
        "arguments": sys.argv,
        "uid": os.getuid(),
        "parent": outcome(lambda: os.kill(os.getppid(), 0)),
        "read": each(options, "read", lambda path: Path(path).open("rb").close()),
        "write": each(options, "write", create),
        "append": each(options, "append", lambda path: Path(path).open("ab").close()),
        "connect": each(options, "connect", connect),
        "import": each(options, "import", importlib.import_module),
        "temporary": outcome(lambda: create(os.environ["TMPDIR"] + "/x")),
        "child": {
            "temporary": in_child(lambda: create(os.environ["TMPDIR"] + "/x")),
            "ip": in_child(lambda: socket.socket(socket.AF_INET)),
            "exec": in_child(lambda: os.execv("/bin/true", ["true"])),
        },
    }
    print(json.dumps(found), flush=True)
    if options.get("fail"):
        raise ValueError("a secret that must not be logged")
    return 42
