"""What a process shell of this folder says: one JSON object for each line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

FAILED = 3  # exit code of a shell that ran to its end and told in its lines what failed; 1 is a traceback
_REPOSITORY = Path(__file__).resolve().parents[2]


def json_lines(*command: str) -> list[dict[str, Any]]:
    """Run ``command`` to its end; its lines. A case that fails says so in its own."""
    done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode in (0, FAILED), done.stderr[-2000:]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said, done.stderr[-2000:]
    return said
