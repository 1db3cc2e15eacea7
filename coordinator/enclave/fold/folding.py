"""The fold of one round: the plan's rule over its updates, and the next model of it. Trust zone: aggregator TEE."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from coordinator.enclave.fold import sorting, weighing
from coordinator.enclave.fold.contributions import Contribution, Contributions
from coordinator.enclave.fold.noisy import MemberNoise, noisy_mean
from coordinator.enclave.fold.passes import Updates
from coordinator.enclave.fold.server import Advance
from coordinator.enclave.fold.source import Source
from coordinator.enclave.jobs import Jobs
from coordinator.enclave.ports import HostStore
from trusted.documents.terms import Aggregation, Rule


def fold(
    contributions: Sequence[Contribution], store: HostStore, *, terms: Aggregation, advance: Advance, jobs: Jobs
) -> None:
    """Write ``advance.after``: the model, and the moments, after a round that counts ``contributions``.

    They are at least as many as the plan's cohort minimum, against which ``terms`` were checked.

    Raises:
        ContributionLost: one of them does not open now, or is not finite; fold again without it.
        BlobError: the next model left the range of float32.
    """
    fold_from(Contributions.of(contributions, store), terms=terms, advance=advance, jobs=jobs)


def fold_noisily(
    contributions: Sequence[Contribution], store: HostStore, *, noise: MemberNoise, advance: Advance, jobs: Jobs
) -> None:
    """Write ``advance.after`` of the noisy mean (:mod:`.noisy`), under a plan that clips its members.

    Raises:
        ContributionLost, BlobError: as :func:`fold`.
    """
    fold_noisily_from(Contributions.of(contributions, store), noise=noise, advance=advance, jobs=jobs)


def fold_from(source: Source, *, terms: Aggregation, advance: Advance, jobs: Jobs) -> None:
    """As :func:`fold`, wherever the updates are read from.

    Raises:
        ValueError: under the rule SERVER_APP nothing is folded here.
    """
    if terms.rule is Rule.SERVER_APP:
        raise ValueError("fold: the app's own server makes the model under this rule")
    updates = Updates(source, jobs)
    if terms.rule is Rule.MEDIAN:
        updates.by_place(sorting.median, advance.write)
    elif terms.rule is Rule.TRIMMED_MEAN:
        updates.by_place(partial(sorting.trimmed_mean, terms.trim), advance.write)
    elif terms.rule is Rule.WEIGHTED_MEAN:
        updates.mean(source.weights, advance.write, total=float(sum(source.weights)))
    else:
        updates.mean(_shares(updates, terms), advance.write, total=1.0)


def fold_noisily_from(source: Source, *, noise: MemberNoise, advance: Advance, jobs: Jobs) -> None:
    """As :func:`fold_noisily`, wherever the updates are read from."""
    noisy_mean(Updates(source, jobs), noise, advance.write)


def _shares(updates: Updates, terms: Aggregation) -> weighing.Shares:
    """What each update counts for under a rule that compares them, and reads them all once for it; together 1."""
    gram = updates.inner_products()
    if terms.rule is Rule.KRUM:
        return weighing.krum(gram, terms.byzantine)
    if terms.rule is Rule.MULTI_KRUM:
        return weighing.multi_krum(gram, terms.byzantine, terms.kept, updates.source.weights)
    return weighing.geometric_median(gram, terms.iterations, terms.smoothing)
