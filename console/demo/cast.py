"""Who plays in a demonstration, what they train, and where its files lie. Trust zone: public data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from console.folding import MEAN, Folding
from console.judging import Judged

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_JUDGED = Judged(None)


@dataclass(frozen=True, slots=True)
class Cast:
    """The members of one demonstration and what they agree on, whichever way they train.

    Attributes:
        charter: its name.
        members: titles by member id.
        recipient: who brings the initial model and gets the final one.
        orderer: who orders runs to start.
        app: the app's folder; its package has the same name, and an ``initial`` that writes the initial model.
        columns: what the app reads, and no more.
        metric: what may leave, as ``plan new --metric`` takes it.
        judged: how the final model is judged inside, for its card.
    """

    charter: str
    members: Mapping[str, str]
    recipient: str
    orderer: str
    app: Path
    columns: tuple[str, ...]
    min_rows: int
    metric: str
    purpose: str
    no_privacy_reason: str
    judged: Judged = NOT_JUDGED


@dataclass(frozen=True, slots=True)
class Scene:
    """One run of a cast: the name of its plan, the least cohort, how it folds, and each member's CSV file."""

    plan: str
    minimum: int
    data: Mapping[str, Path]
    folding: Folding = MEAN


@dataclass(frozen=True, slots=True)
class Folder:
    """Where everything of one demonstration lies; what belongs to one run alone, below ``run``."""

    path: Path
    run: Path

    @classmethod
    def of(cls, path: Path) -> Folder:
        """One folder for a demonstration with one run."""
        return cls(path, path)

    def for_run(self, name: str) -> Folder:
        """The same demonstration, and a folder of its own for the run ``name``."""
        run = self.path / name
        run.mkdir(parents=True, mode=0o700)
        return Folder(self.path, run)

    @property
    def charter(self) -> Path:
        """The signed charter."""
        return self.path / "charter.dsse.json"

    @property
    def initial_model(self) -> Path:
        """The initial model, safetensors."""
        return self.path / "initial.safetensors"

    def site(self, name: str) -> Path:
        """One member's own folder."""
        return self.path / name

    def chip(self, name: str) -> Path:
        """One machine's software chip."""
        return self.path / "chips" / name

    @property
    def plan(self) -> Path:
        """The signed plan; its bundle is next to it."""
        return self.run / "plan.dsse.json"

    @property
    def bundle(self) -> Path:
        """The app bundle that the plan pins."""
        return self.run / "plan.fab"

    @property
    def host(self) -> Path:
        """The host's own folder: all that it ever stored."""
        return self.run / "host"

    @property
    def host_log(self) -> Path:
        """What the host said."""
        return self.run / "host.log"

    @property
    def logs(self) -> Path:
        """What the enclaves said, each at its own site."""
        return self.run / "logs"

    @property
    def model(self) -> Path:
        """The final model as its recipient opened it, safetensors."""
        return self.run / "model.safetensors"

    @property
    def card(self) -> Path:
        """The page of the model card, where the plan has the model judged."""
        return self.run / "card.html"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person asked for, and whether each machine has a software TPM as well."""

    rounds: int
    seed: int
    tpms: bool
