"""``python -m benchmarks NAME [--json]``: measure one thing. Trust zone: the developer's machine; process shell."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from benchmarks.attestation import measure_attestation
from benchmarks.measured import Measurement

_BENCHMARKS: Mapping[str, Callable[[float], list[Measurement]]] = MappingProxyType({"attestation": measure_attestation})


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0, or 2 for a wrong command line (argparse leaves the process with it)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure one part of Cloister.")
    parser.add_argument("name", choices=sorted(_BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="print one object on stdout, the table on stderr")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to repeat each measurement")
    options = parser.parse_args(arguments)
    found = _BENCHMARKS[options.name](options.seconds)
    print(_table(found), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
        data = {"benchmark": options.name, "machine": machine, "measurements": [item.to_json() for item in found]}
        print(json.dumps({"data": data}))
    return 0


def _table(found: Sequence[Measurement]) -> str:
    rows = [("what", "per second", "median ms", "p95 ms", "runs"), *(item.row() for item in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
