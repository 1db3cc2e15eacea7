"""What a plan takes over from a simulation's settings, and what goes before it. Trust zone: the member's own machine.

The file is what ``Simulation.save_settings`` writes, or a saved result, JSON or Parquet, which holds the same
(docs/simulation.md). Its writer may have got anything wrong: whatever is taken from it is held against the plan's own
rules with all the rest.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from console.exchanging import Travel
from console.files import read_bounded
from console.folding import Folding
from console.output import UserError
from trusted.documents.terms import Aggregation

T = TypeVar("T")

FORMAT = "cloister-simulation/v1"
PARQUET_KEY = b"cloister.simulation"
"""Under which a saved result's settings stand in the metadata of its Parquet file."""
_PARQUET = b"PAR1"
_MAX_BYTES = 256 << 20  # a saved result has its model and all rounds
_FOLDING = frozenset({"rule", "false_sites", "kept", "server", "proximal_mu", "max_weight"})
_TRAVEL = frozenset({"model_encoding", "update_encoding", "exchange_tensor"})
_PRIVACY = frozenset({"privacy", "no_privacy_because"})
_HINT = "Give a file that Simulation.save_settings, or `cloister simulate`, wrote."


@dataclass(frozen=True, slots=True)
class CarriedFolding(Folding):
    """``plan.aggregation`` as it was simulated."""

    document: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, max_weight: float, minimum: int) -> dict[str, Any]:
        """The same document, whose own bound of weights stands unless privacy asks for 1.

        Raises:
            UserError: the rule needs a larger cohort. WireError, DocumentError: it is no rule.
        """
        found = dict(self.document) | ({"max_weight": 1} if max_weight == 1 else {})
        least = Aggregation.read(found).least
        if minimum < least:
            said = f"the simulation's rule: a round of only {minimum} updates would mean nothing to it"
            raise UserError(said, f"Give --minimum {least} or more, or another --rule.")
        return found


@dataclass(frozen=True, slots=True)
class Carried:
    """The settings of a simulation, none of them where there was no simulation; ``given`` are the options in use."""

    terms: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    given: Collection[str] = ()

    @classmethod
    def read(cls, path: Path | None, given: Collection[str]) -> Carried:
        """From the file at ``path``; ``given`` are the options that a person gave, which go before it.

        Raises:
            OSError, UserError: it cannot be read, or is no simulation's.
        """
        if path is None:
            return cls(given=given)
        found = _record(path)
        if isinstance(found, dict) and isinstance(found.get("settings"), dict):
            found = found["settings"]
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise UserError(f"{path}: not the settings of a simulation", _HINT)
        terms, task = found.get("terms"), found.get("task")
        if not (isinstance(terms, dict) and isinstance(task, dict)):
            raise UserError(f"{path}: the settings of a simulation lack their terms or their task", _HINT)
        if task.get("task") != "flower":
            raise UserError(
                f"{path}: what was simulated is no Flower app, and a plan is of one", "Simulate the app's folder."
            )
        return cls(terms, task, given)

    def app(self, given: Path | None) -> Path:
        """The app's folder.

        Raises:
            UserError: neither was given.
        """
        folder = given or self.task.get("folder")
        if not folder:
            raise UserError("no app was given", "Give --app, or --from-simulation for the one that was simulated.")
        return Path(folder)

    def over(self, name: str, value: T) -> T:
        """Of one of the plan's numbers what was given, or else what was simulated, or else ``value``."""
        found = self._numbers.get(name)
        return value if name in self.given or found is None else found

    def messages(self, key: str, given: Sequence[str]) -> list[str]:
        """``key=value`` of ``config``, ``train_config`` or ``evaluate_config``, and those ``given``, which win."""
        said = [f"{name}={json.dumps(value)}" for name, value in _entries(self.task.get(key))]
        for change in self.task.get("changes") or ():
            first = change.get("from_round") if isinstance(change, dict) else None
            said += [f"{first}:{name}={json.dumps(value)}" for name, value in _entries((change or {}).get(key))]
        return [*said, *given]

    def columns(self, given: Sequence[str], contract: Path | None) -> list[str]:
        """What the app gets, unless a person said so."""
        return list(given) if given or contract else list(self.task.get("columns") or ())

    def metrics(self, given: Sequence[str]) -> list[str]:
        """What may leave, unless a person said so: ``name:min_sites:digits:min_rows``."""
        rules = self.terms.get("metrics") or ()
        fields = ("name", "min_sites", "digits", "min_rows")
        texts = [
            ":".join(str(rule[name]) for name in fields if name in rule) for rule in rules if isinstance(rule, dict)
        ]
        return list(given) or texts

    def folding(self, given: Folding) -> Folding:
        """The simulation's, unless a person gave any option of it."""
        document = self.terms.get("aggregation")
        return given if self._gave(_FOLDING) or not document else CarriedFolding(document=dict(document))

    def travel(self, given: Travel) -> Travel:
        """The same of what travels."""
        said = self.terms.get("exchange")
        if self._gave(_TRAVEL) or not isinstance(said, dict):
            return given
        return Travel(str(said.get("model")), str(said.get("update")), tuple(map(str, said.get("tensors") or ())))

    def mechanism(self) -> dict[str, Any] | None:
        """The simulation's privacy mechanism; None: a person has to say which, or why there is none."""
        said = self.terms.get("privacy")
        is_one = isinstance(said, dict) and said.get("mechanism") != "none"
        return dict(said) if isinstance(said, dict) and is_one and not self._gave(_PRIVACY) else None

    @property
    def taken(self) -> list[str]:
        """A sentence for what came over."""
        if not self.terms:
            return []
        kept = {name: value for name, value in self._numbers.items() if name not in self.given and value is not None}
        said = [f"{name.replace('_', '-')} {value}" for name, value in kept.items()]
        said += ["how updates are folded"] if not self._gave(_FOLDING) else []
        said += ["what travels"] if not self._gave(_TRAVEL) else []
        said += ["privacy"] if self.mechanism() is not None else []
        return [*said, f"{len(self.task.get('config') or ())} setting(s) of the run config"]

    @property
    def _numbers(self) -> dict[str, Any]:
        """By the option's name. A cohort of all simulated sites is a cohort of all members."""
        cohort, deadlines = (dict(self.terms.get(name) or {}) for name in ("cohort", "deadlines"))
        size = None if cohort.get("size") == cohort.get("sites") else cohort.get("size")
        return {"rounds": self.terms.get("rounds"), "minimum": cohort.get("minimum"), "size": size} | {
            name: deadlines.get(name) for name in ("round_s", "lease_s", "reattest_s")
        }

    def _gave(self, options: frozenset[str]) -> bool:
        return not options.isdisjoint(self.given)


def _record(path: Path) -> Any:
    """The JSON of a file, or that in the metadata of a Parquet file."""
    content = read_bounded(path, _MAX_BYTES)
    if content.startswith(_PARQUET):
        content = _metadata(path, content)
    try:
        return json.loads(content)
    except ValueError:
        raise UserError(f"{path}: neither JSON nor a result as Parquet", _HINT) from None


def _metadata(path: Path, content: bytes) -> bytes:
    """What a saved result says of itself; its rows are not read."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        said = f"{path}: results as Parquet are read with pyarrow, which is not installed"
        raise UserError(said, "pip install 'cloister[console]', or save the result as .json.") from None
    try:
        found = pq.read_schema(pa.BufferReader(content)).metadata or {}
    except (pa.ArrowException, OSError):
        raise UserError(f"{path}: cannot be read as Parquet", "Check that the file is whole.") from None
    if PARQUET_KEY not in found:
        raise UserError(f"{path}: not the settings of a simulation", _HINT)
    return bytes(found[PARQUET_KEY])


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    return iter(value.items()) if isinstance(value, dict) else iter(())
