"""``python -m simulations.hosts``: every lie, first where it is believed, then under Cloister. A shell: it prints."""

from __future__ import annotations

import sys

import numpy as np

from simulations.hosts.believing import Believing, honest
from simulations.hosts.consortium import Consortium
from simulations.hosts.lies import LIES


def main() -> int:
    """One row for each lie, as docs/simulation-adversaries.md has them."""
    world = Consortium.found()
    print("| lie | a believing server's model is off by | refused by | who counts in the model under Cloister |")
    print("|---|---|---|---|")
    for lie in LIES.values():
        with np.errstate(all="ignore"):
            off = float(np.abs(lie.believed(Believing()) - honest()).max())
        told = lie.told(world)
        refused = [
            f"{who}: {reason.code} {reason.name}" for who, reasons in sorted(told.noticed.items()) for reason in reasons
        ]
        noticed = ", ".join(refused) or "nobody: nothing is gained"
        counted = "; ".join(", ".join(sorted(members)) for members in told.counted) or "the run stands still"
        print(f"| {lie.name} | {off:.3g} | {noticed} | {counted} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
