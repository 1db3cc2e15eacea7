"""Write the initial model: ``python -m rand_hie.initial --seed 7 --out initial.safetensors``."""

import argparse
from pathlib import Path

from safetensors.torch import save

from rand_hie import task


def main() -> None:
    """The same bytes for the same seed, so that every member can make them again and compare."""
    parser = argparse.ArgumentParser(description="Write the initial model of this app")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--model", choices=("net", "linear"), default="net")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.write_bytes(save(dict(task.initial_arrays(args.seed, args.model))))


if __name__ == "__main__":
    main()
