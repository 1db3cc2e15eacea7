"""Work on the pieces of a round in lanes, side by side. Trust zone: aggregator TEE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from coordinator.enclave.fold.contributions import ContributionLost
from coordinator.enclave.jobs import Jobs
from trusted.errors import BlobError

T = TypeVar("T")

MANY = 1 << 31  # lanes: as many as there are


def in_lanes(jobs: Jobs, shares: Sequence[T], prepare: Callable[[], Callable[[T], None]], *, most: int = MANY) -> None:
    """Do every one of ``shares``, in at most ``most`` lanes; ``prepare`` makes what one lane does, with its own room.

    Lanes take turns, and all end when one fails.

    Raises:
        ContributionLost, BlobError: what one raised.
    """
    failures: list[Exception] = []

    def work(lane: int, lanes: int) -> None:
        if lane >= (used := min(lanes, most)):
            return
        do = prepare()
        for share in shares[lane::used]:
            if failures:  # of another lane: this result is lost already
                return
            try:
                do(share)
            except (BlobError, ContributionLost) as error:
                failures.append(error)
                raise

    jobs.each_lane(work)
