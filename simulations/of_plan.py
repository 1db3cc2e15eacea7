"""A plan as it was signed, with the app, the model and the data that it names, to be simulated. Trust zone: the
developer's machine.

Everything goes the way of a deployed worker: the bundle is unpacked by its digest, the initial model is held against
the plan's, and each member's data enters by the plan's contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from console.initial_model import read_initial_model
from console.plans import read_bundle
from simulations.behaviour import Behaviour
from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.site_data import SiteData
from simulations.site_files import AdmittedData, Scratch
from simulations.tasks.app import App
from simulations.tasks.app_model import Arrays
from trusted.apps.arrays import split_vector
from trusted.apps.bundle import unpack_bundle
from trusted.documents.plan import Plan, initial_digest
from trusted.errors import AppError, Reason
from worker.trainer import join_arrays


@dataclass(frozen=True, slots=True)
class Papers:
    """What a plan pins by digest, where it lies: app (folder or bundle), initial model, and each member's data."""

    app: Path
    initial: Path
    data: Mapping[str, Path]


def app_of(plan: Plan, papers: Papers, scratch: Scratch) -> App:
    """The app that ``plan`` names, with its data and model, as every member's worker has them.

    Raises:
        AppError: BUNDLE_DIGEST: another app. INITIAL_MODEL: another model. DATA_CONTRACT, DATA_VALUES: whose data does
            not enter. ValueError: a member's data is missing. UserError, OSError: a file cannot be read.
    """
    missing = sorted(set(plan.cohort.members) - set(papers.data))
    if missing:
        raise ValueError(f"data: none of {missing[0]}, whom the plan names; each member's data is needed")
    folder = unpack_bundle(read_bundle(papers.app), expected=plan.app.bundle_sha256, into=scratch.path / "app")
    unseen = () if plan.evaluation is None else plan.evaluation.unseen
    sources = {member: Path(papers.data[member]) for member in plan.cohort.members}
    return App(
        folder,
        initial=_initial(plan, papers.initial),
        config=dict(plan.app.config),
        train_config=dict(plan.app.train_config),
        evaluate_config=dict(plan.app.evaluate_config),
        changes=plan.app.changes,
        admitted=AdmittedData.of(sources, plan.dataset, unseen),
    )


def sites_of(admitted: AdmittedData, seed: int, held_out: Dataset | None, behaviours: Sequence[Behaviour]) -> SiteData:
    """The members as sites; their rows stay where they were admitted, and are known here by number alone."""
    numbers = np.arange(sum(admitted.rows))
    partition = Partition(None, admitted.starts, admitted.names)
    return SiteData.of(Dataset({"row": numbers}), partition, held_out, seed, behaviours)


def _initial(plan: Plan, path: Path) -> Arrays:
    """By name, in the order of the plan's layout."""
    read = read_initial_model(path)
    arrays = split_vector(read.layout, read.vector)
    if initial_digest(plan.layout, join_arrays(plan.layout, arrays).data.cast("B")) != plan.initial_sha256:
        raise AppError(Reason.INITIAL_MODEL, "initial: not the model whose digest the plan pins")
    return {tensor.name: arrays[tensor.name] for tensor in plan.layout.tensors}
