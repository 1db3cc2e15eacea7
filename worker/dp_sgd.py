"""For authors of apps: DP-SGD as the plan asks for it. Trust zone: worker, in the trainer process.

Under a plan whose privacy mechanism is ``dp-sgd`` an app trains like this, and in no other way::

    from worker import dp_sgd

    if dp_sgd.terms() is not None:
        private, optimizer, loader = dp_sgd.make_private(net, optimizer, dataset, persons=ids)
        for x, y in loader:  # as many steps as the plan allows in a round; a batch may be empty
            optimizer.zero_grad()
            loss_of(private(x), y).backward()
            optimizer.step()
    # ``net`` itself was trained: reply with its own state_dict()

Clip norm, noise, sampling rate and the number of steps come from the plan; the app cannot choose them. Steps are
counted here, and the round of an app that never made one is refused (APP_NOT_PRIVATE). What a site learns without
``loader`` is not protected: that an app does not is for those to see who sign the plan that names it.

torch and Opacus are imported when they are asked for, and not before.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trusted.documents.terms import DpSgd, Unit
from trusted.errors import AppError, Reason

if TYPE_CHECKING:
    from worker.dp_sgd_training import PrivateTraining


@dataclass(slots=True)
class Account:
    """How many private steps the app may make in this round, and has made."""

    terms: DpSgd
    steps: int = 0

    @property
    def left(self) -> int:
        """Steps that the plan still allows in this round."""
        return self.terms.max_steps - self.steps

    def spend(self) -> None:
        """One step is about to be made.

        Raises:
            AppError: APP_NOT_PRIVATE: the plan allows no more.
        """
        if self.left <= 0:
            raise AppError(Reason.APP_NOT_PRIVATE, "app: more steps in a round than plan.privacy.max_steps")
        self.steps += 1


_account: Account | None = None  # of this process, which runs one app


def set_terms(asked: DpSgd | None) -> None:
    """For the trainer process: the plan's terms, before the app is loaded; also before each round."""
    global _account
    _account = None if asked is None else Account(asked)


def steps() -> int | None:
    """For the trainer process: how many private steps the app made since :func:`set_terms`; None without terms."""
    return None if _account is None else _account.steps


def terms() -> DpSgd | None:
    """What the plan asks for; None where its mechanism is another one, or there is no plan (``flwr run``)."""
    return None if _account is None else _account.terms


def make_private(
    model: Any, optimizer: Any, dataset: Any, *, persons: Sequence[Hashable] | None = None
) -> PrivateTraining:
    """``model``, ``optimizer`` and a loader of ``dataset`` (torch's), for private training; unpack the three.

    ``persons`` says whose each row of ``dataset`` is, and is needed where the plan's unit is the person. The loader
    gives batches drawn as the plan says, empty ones among them, and ends when the round's steps are made.

    Raises:
        RuntimeError: the plan asks for no DP-SGD.
        ValueError: a model that Opacus cannot make private (BatchNorm), or no ``persons`` where they are needed.
    """
    if _account is None:
        raise RuntimeError("dp_sgd: this plan asks for no DP-SGD; ask dp_sgd.terms() first")
    if _account.terms.unit is Unit.PERSON and persons is None:
        raise ValueError("dp_sgd: the plan's unit is the person: say whose each row is (persons=)")
    from worker.dp_sgd_training import PrivateTraining

    units = persons if _account.terms.unit is Unit.PERSON else None
    return PrivateTraining.of(_account, model, optimizer, dataset, units)
