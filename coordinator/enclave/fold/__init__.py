"""Folding updates into the next model, piece by piece. Trust zone: aggregator TEE; no I/O but the host's store.

Here live the reading of contributions, the passes over them, and the pure rules that say what the passes compute; the
inside of the aggregator imports it, and in no TEE anything else.

Rules: 1. Nothing unauthenticated or incomplete reaches a result. 2. All contributions advance in lockstep, in the order
of member ids, so no sum depends on arrival. 3. Memory is the model, the next model and a few pieces, whatever the
cohort; rules that compare numbers place by place hold one piece of every update, within a bound (:mod:`.passes`).
4. Every update has the same size and every byte of it is touched in the same order, whatever it holds and whatever
becomes of it, so the access pattern tells nothing. 5. Lanes take turns in pieces; no piece is another lane's, and what
lanes add up is added in one order, so their number changes no bit. 6. Only elementwise IEEE 754 operations and square
roots make numbers, in a fixed order: another processor, after a recovery, gets the same bits.
"""

from coordinator.enclave.fold.contributions import Contribution, ContributionLost, Opened, check
from coordinator.enclave.fold.folding import fold, fold_from, fold_noisily, fold_noisily_from
from coordinator.enclave.fold.noisy import MemberNoise
from coordinator.enclave.fold.server import Advance, State
from coordinator.enclave.fold.source import PIECES_A_READ, Source, Stream, in_reads

__all__ = [
    "PIECES_A_READ",
    "Advance",
    "Contribution",
    "ContributionLost",
    "MemberNoise",
    "Opened",
    "Source",
    "State",
    "Stream",
    "check",
    "fold",
    "fold_from",
    "fold_noisily",
    "fold_noisily_from",
    "in_reads",
]
