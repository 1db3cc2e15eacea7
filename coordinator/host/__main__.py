"""``python -P -m coordinator.host CONFIG.json``: one host process. Trust zone: host; process shell."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from coordinator.host.config import HostConfig
from coordinator.host.events import log_to
from coordinator.host.server import HostReady, serve
from trusted.allocator import keep_chunk_memory
from trusted.errors import ProtocolError

_USAGE = "usage: python -P -m coordinator.host CONFIG.json"


def main(arguments: list[str]) -> int:
    """Serve until stopped; 0, or 1 with one line that says what is wrong, or 2 for a wrong command line."""
    if len(arguments) != 1:
        print(_USAGE, file=sys.stderr)
        return 2
    keep_chunk_memory()
    log_to(sys.stderr)
    try:
        asyncio.run(serve(HostConfig.load(Path(arguments[0])), _say_ready))
    except ProtocolError as refusal:
        print(refusal, file=sys.stderr)
        return 1
    return 0


def _say_ready(ready: HostReady) -> None:
    """One line on stdout, for whoever started this process and waits."""
    words = f"ready port={ready.port} door={ready.door} ca={ready.ca_pem or '-'}"
    print(words if ready.blob_port is None else f"{words} blob_port={ready.blob_port}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
