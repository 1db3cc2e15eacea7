"""Writes the generated code of every `.proto` file below this folder. Trust zone: build time, no process runs it.

``make protos`` runs it in place; a test runs it into an empty folder and compares, so that what is committed is what
the `.proto` files say.
"""

from __future__ import annotations

import argparse
import importlib.resources
import sys
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
GENERATED_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def proto_files(root: Path = ROOT) -> list[Path]:
    """The `.proto` files below ``root/protos``, relative to ``root``, in a fixed order."""
    return sorted(path.relative_to(root) for path in (root / "protos").rglob("*.proto"))


def generate(out: Path, root: Path = ROOT) -> list[Path]:
    """Write the code of every `.proto` file below ``out`` and return the paths, relative to ``out``.

    Raises:
        RuntimeError: protoc refused a file; its own words stand on stderr.
    """
    well_known = str(importlib.resources.files("grpc_tools") / "_proto")
    written: list[Path] = []
    for proto in proto_files(root):
        options = [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
        if protoc.main(["protoc", f"-I{root}", f"-I{well_known}", *options, str(proto)]) != 0:
            raise RuntimeError(f"{proto}: protoc refuses it")
        written += [proto.with_name(proto.stem + suffix) for suffix in GENERATED_SUFFIXES]
    return written


def main() -> int:
    """``python -m protos.generate [--out FOLDER]``; without a folder the committed files are replaced."""
    parser = argparse.ArgumentParser(description="Generate the gRPC code of protos/.")
    parser.add_argument("--out", type=Path, default=ROOT, help="root below which to write (default: this checkout)")
    for path in generate(parser.parse_args().out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
