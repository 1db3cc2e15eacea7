"""What a test enclave runs: tries what ``options`` name and logs one JSON line. It runs as measured code."""

from __future__ import annotations

import functools
import importlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trusted.attestation.composite import EvidenceBundle, OpenTranscript
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.confinement import Confinement, confine
from trusted.errors import StateError, TeeError
from trusted.evidence.boot import Boot
from trusted.vault import Vault


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


def bundles(boot: Boot) -> list[str]:
    """Evidence of this TEE and its devices over each transcript; before each one, what ``options`` say happens.

    ``extend``: this very enclave measures something more into PCR 11 of its TPM. ``mark``: it makes a file. ``await``:
    one appears.
    """
    found: list[str] = []
    for step in boot.options.get("bundles", []):
        if "extend" in step:
            boot.provider.source.tpm._client.extend_pcr(11, Bank.SHA384, bytes.fromhex(step["extend"]))  # type: ignore[attr-defined]
        if "mark" in step:
            Path(step["mark"]).touch()
        while "await" in step and not Path(step["await"]).exists():
            time.sleep(0.02)
        transcript = OpenTranscript((boot.role.value.encode(), bytes.fromhex(step["nonce"])))
        try:
            found.append(EvidenceBundle.collect(boot.provider, transcript).encode().hex())
        except TeeError as error:
            found.append(str(error))
    return found


def remembered(boot: Boot) -> list[str | None]:
    """What each step of ``options`` on the vault gives: ``[name]`` reads a record, ``[name, text]`` writes one."""
    if "vault" not in boot.options:
        return []
    vault = Vault.open(Path(boot.options["vault"]), boot.provider, boot.role, bytes.fromhex(boot.options["plan"]))
    found: list[str | None] = []
    for name, *content in boot.options["steps"]:
        try:
            if content:
                vault.write(name, content[0].encode())
            record = vault.read(name)
            found.append(None if record is None else record.decode())
        except StateError as error:
            found.append(error.reason.name)
    return found


def main(boot: Boot) -> int:
    """Try everything; the status is 42, so that a test sees that this very code ran."""
    options = boot.options
    found: dict[str, Any] = {
        "role": boot.role.value,
        "documents": [boot.charter.decode(), boot.plan.decode()],
        "evidence": boot.provider.evidence(bytes.fromhex(options["report_data"])).encode().hex(),
        "bundles": bundles(boot),
        "vault": remembered(boot),
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
            "vault": in_child(lambda: os.listdir(options["vault"])),
        },
    }
    print(json.dumps(found), flush=True)
    if options.get("fail"):
        raise ValueError("a secret that must not be logged")
    return 42
