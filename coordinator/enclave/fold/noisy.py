"""The noisy mean: updates clipped and rounded to a lattice, and noise added to their sum once.

Trust zone: aggregator TEE.

Rules: 1. A worker's word about the length of its update is not believed: one pass measures all, a second clips. 2. What
the second pass took in is measured again, exactly, in integers: a sender with two faces for one blob moves nothing by
more than the clip. 3. The sum is of integers, so neither arrival nor lanes change a bit. 4. Noise follows from its key
and an element's place: the same round folded again has the same noise, and another set of contributions another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from coordinator.enclave.fold.contributions import ContributionLost
from coordinator.enclave.fold.lanes import in_lanes
from coordinator.enclave.fold.passes import Updates, Write
from coordinator.enclave.fold.source import PIECES_A_READ, in_reads, piece_room
from trusted.blob import BlobHeader, Piece
from trusted.errors import BlobError, Reason
from trusted.lattice import Lattice, squared_norm, squared_steps
from trusted.noise import NoiseKey, add_gaussian


@dataclass(frozen=True, slots=True)
class MemberNoise:
    """No update moves a sum by more than ``clip_norm``; noise of ``noise_multiplier`` times that is added to it."""

    clip_norm: float
    noise_multiplier: float
    key: NoiseKey = field(repr=False)


def noisy_mean(updates: Updates, noise: MemberNoise, write: Write) -> None:
    """The mean of the clipped updates with noise, for each piece: a multiple of the lattice's step, by their number.

    Raises:
        ContributionLost: one of them does not open, is not finite, or is not what it was when it was measured.
        BlobError: from ``write``.
    """
    header = updates.source.header
    lattice = Lattice(noise.clip_norm, header.elements)
    factors = [lattice.factor(math.sqrt(square)) for square in _squared_norms(updates, header)]
    streams = updates.source.streams()
    reads = list(enumerate(in_reads(header)))
    taken = [[0] * len(reads) for _ in streams]  # squared norms of what was summed, in squared steps
    step, deviation = piece_room(header), noise.noise_multiplier * noise.clip_norm / lattice.step
    scale = lattice.step / len(streams)

    def prepare() -> Callable[[tuple[int, Sequence[Piece]]], None]:
        opened, room, mean = np.empty(step, "f4"), np.empty(step), np.empty(step)
        rounded, summed = np.empty(step, np.int64), np.empty((PIECES_A_READ, step), np.int64)

        def do(read: tuple[int, Sequence[Piece]]) -> None:
            at, pieces = read
            summed[: len(pieces)] = 0
            for place, stream in enumerate(streams):
                for row, (piece, update) in zip(summed, stream.open_each(pieces, opened), strict=False):
                    part = rounded[: piece.elements]
                    lattice.round_into(update, factors[place], part, room[: piece.elements])
                    taken[place][at] += squared_steps(part)
                    row[: piece.elements] += part
            for row, piece in zip(summed, pieces, strict=False):
                total = row[: piece.elements]
                add_gaussian(total, noise.key, deviation, start=piece.start)
                write(piece, np.multiply(total, scale, out=mean[: piece.elements]))

        return do

    in_lanes(updates.jobs, reads, prepare)
    for member, squares in zip(updates.source.members, taken, strict=True):
        if sum(squares) > lattice.most_squared:
            raise _two_faced(member)


def _squared_norms(updates: Updates, header: BlobHeader) -> list[float]:
    """The squared L2 norm of each update, in one order of additions."""
    reads = list(enumerate(in_reads(header)))
    streams = updates.source.streams()
    squares = np.zeros((len(streams), len(reads)))

    def prepare() -> Callable[[tuple[int, Sequence[Piece]]], None]:
        opened = np.empty(piece_room(header), "f4")

        def do(read: tuple[int, Sequence[Piece]]) -> None:
            at, pieces = read
            for place, stream in enumerate(streams):
                for _, update in stream.open_each(pieces, opened):
                    squares[place, at] += squared_norm(update)

        return do

    in_lanes(updates.jobs, reads, prepare)
    return [math.fsum(row) for row in squares]


def _two_faced(member: str) -> ContributionLost:
    error = BlobError(Reason.UPDATE_NORM, "update: longer when it was folded than when it was measured")
    return ContributionLost(member, error)
