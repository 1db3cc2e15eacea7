"""Partitions and behaviours by name, as a command line writes them. Trust zone: the developer's machine.

``dirichlet:alpha=0.1`` and ``dropouts:0.2,chance=0.5`` call the functions of these names; what they take is read from
their signatures, so a new one can be named without a word here, unless it takes more than sites and numbers:
:mod:`simulations.named_sites` says how those are written.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from simulations import behaviours, partitions
from simulations.behaviour import Behaviour
from simulations.dataset import Dataset
from simulations.named_sites import chosen, groups, sites, trigger
from simulations.partition import Partition

# Not numbers for a person to write.
_GIVEN = frozenset({"dataset", "sites", "names", "groups", "seed", "name", "label", "values"})
_WHO = {"sites": "SHARE", "names": "SHARE", "groups": "SHARE/SHARE/…"}
PARTITIONS: Mapping[str, Callable[..., Partition]] = {
    name: getattr(partitions, name)
    for name in ("iid", "dirichlet", "by_column", "labels_each", "shards", "log_normal", "power_law")
}
_MOST_SHOWN = 10
_TRIGGERS = frozenset({"Patch", "constants"})
BEHAVIOURS: Mapping[str, Callable[..., Behaviour | tuple[Behaviour, ...]]] = {
    name: getattr(behaviours, name) for name in behaviours.__all__ if name not in _TRIGGERS
}


def read_partition(text: str, dataset: Dataset, sites: int, seed: int) -> Partition:
    """``iid``, ``dirichlet:0.1``, ``by_column:site``: of ``dataset``, over so many sites where they are not its own.

    Raises:
        ValueError: no such name or number; the message says what there is.
    """
    name, _, rest = text.partition(":")
    make = _found("partition", name, PARTITIONS)
    if make is partitions.by_column:
        if not rest:
            raise ValueError(f"partition by_column: name the column, one of {', '.join(dataset.columns)}")
        return partitions.by_column(dataset, rest.removeprefix("column="))
    partition: Partition = make(dataset, sites, seed=seed, **_arguments("partition", make, name, rest))
    return partition


def read_behaviours(text: str, dataset: Dataset, *, names: Sequence[str], seed: int) -> tuple[Behaviour, ...]:
    """``sign_flip:0.2`` or ``dropouts:0.1,chance=0.5``: who (a share, or names joined by ``+``), then how.

    ``outages`` has groups of sites, with ``/`` between them. What lies about labels does so about the label of
    ``dataset``; ``names`` are those of all sites.

    Raises:
        ValueError: no such name, nobody, or a number that does not read; the message says what there is.
    """
    name, _, rest = text.partition(":")
    make = _found("behaviour", name, BEHAVIOURS)
    who, _, numbers = rest.partition(",")
    if not who or "=" in who:
        example = f"{name}:0.2/0.2" if make is behaviours.outages else f"{name}:0.2"
        raise ValueError(f"behaviour {name}: say first who, as {example} (a share) or {name}:site-0001+site-0004")
    arguments = _of_label(make, name, dataset) | _arguments("behaviour", make, name, numbers)
    _require_labels(make, name, arguments, dataset)
    if "trigger" in arguments:
        arguments["trigger"] = trigger(name, arguments["trigger"], dataset)
    if make is behaviours.outages:
        return behaviours.outages(groups(name, who, names, seed), seed=seed, **arguments)
    if make is behaviours.churn:
        return behaviours.churn(chosen(name, who, names, seed), seed=seed, **arguments)
    made = make(sites(who), **arguments)
    return made if isinstance(made, tuple) else (made,)


def _of_label(make: Callable[..., Any], name: str, dataset: Dataset) -> dict[str, Any]:
    takes = inspect.signature(make).parameters
    if "label" not in takes:
        return {}
    if not dataset.label:
        raise ValueError(f"behaviour {name}: it lies about labels; say with --label which column that is")
    values = {"values": np.unique(dataset.column(dataset.label)).tolist()} if "values" in takes else {}
    return {"label": dataset.label, **values}


def _require_labels(make: Callable[..., Any], name: str, arguments: Mapping[str, Any], dataset: Dataset) -> None:
    """What stands for a label is one that a row has."""
    for key, each in _numbers_of(make).items():
        if each.annotation == "Any":
            labels = np.unique(dataset.column(dataset.label)).tolist()
            if arguments[key] not in labels:
                there = ", ".join(map(str, labels[:_MOST_SHOWN])) + (", …" if len(labels) > _MOST_SHOWN else "")
                raise ValueError(f"behaviour {name}: {key}: no row is labelled {arguments[key]!r}; labels are {there}")


def spelled(names: Mapping[str, Callable[..., Any]]) -> list[tuple[str, str]]:
    """Each name with the numbers that it takes, and the first sentence of what it does."""
    return [(_usage(make, name), inspect.cleandoc(make.__doc__ or "").splitlines()[0]) for name, make in names.items()]


def _found(kind: str, name: str, names: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    key = name.replace("-", "_")
    if key not in names:
        close = difflib.get_close_matches(key, names, 1)
        meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
        raise ValueError(f"{kind} {name!r}: there is none of this name; {meant}")
    return names[key]


def _numbers_of(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {name: each for name, each in inspect.signature(make).parameters.items() if name not in _GIVEN}


def _arguments(kind: str, make: Callable[..., Any], name: str, text: str) -> dict[str, Any]:
    takes = _numbers_of(make)
    given: dict[str, Any] = {}
    for place, pair in enumerate(text.split(",") if text else ()):
        key, equals, value = pair.partition("=")
        if not equals:  # the first may go without its name: dirichlet:0.1
            key, value = (next(iter(takes), ""), pair) if place == 0 else (pair, "")
        if key not in takes:
            raise ValueError(f"{kind} {name}: it has no {key!r}; write {_usage(make, name)}")
        given[key] = _read(kind, name, key, value, takes[key].annotation)
    missing = [key for key, each in takes.items() if each.default is each.empty and key not in given]
    if missing:
        raise ValueError(f"{kind} {name}: say {missing[0]}; write {_usage(make, name)}")
    return given


def _read(kind: str, name: str, key: str, value: str, annotation: str) -> Any:
    if annotation == "Trigger":
        return value
    if annotation == "Any":  # the value of a label, which may be text
        try:
            return int(value)
        except ValueError:
            return value
    whole = annotation == "int"
    try:
        return int(value) if whole else float(value)
    except ValueError:
        raise ValueError(f"{kind} {name}: {key} is a {'whole ' if whole else ''}number, not {value!r}") from None


def _usage(make: Callable[..., Any], name: str) -> str:
    if make is partitions.by_column:
        return "by_column:COLUMN"
    takes = () if make in PARTITIONS.values() else inspect.signature(make).parameters
    parts = [said for key, said in _WHO.items() if key in takes]
    for key, each in _numbers_of(make).items():
        if each.annotation == "Trigger":
            parts.append(f"{key}=COLUMN:NUMBER+…")
            continue
        parts.append(f"{key}=…" if each.default is each.empty else f"{key}={each.default:g}")
    return f"{name}:{','.join(parts)}" if parts else name
