"""Stands in for ``python -m benchmarks rounds`` on a command line: prints what it is told to, and measures nothing."""

import json
import sys
import time

behaviour = sys.argv[1]
print("a table, for people", file=sys.stderr)
data = {"rounds_s": [0.75, 0.5, 0.25], "aggregator_peak_mb": 300.0, "host_peak_mb": 100}
data |= {"sealing_share": 0.08, "grpc_limit_s": 0.4}
if behaviour == "hangs":
    time.sleep(60)
if behaviour == "fails":
    sys.exit("no worker was admitted")
if behaviour == "lacks":
    del data["host_peak_mb"]
data["asked"] = sys.argv[2:]
envelope = {"schema_version": "1", "status": "ok", "data": data, "error": None}
print("garbage" if behaviour == "garbage" else json.dumps(envelope))
