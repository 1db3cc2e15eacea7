"""Results on disk: rounds as Parquet or JSON, and the model next to them as safetensors. Never pickle.

Trust zone: the developer's machine. ``run.parquet`` holds a row for each round, with a column for each metric, so that
any tool reads it; settings, ending and layout stand in its metadata. The model is in ``run.safetensors``, which is what
``cloister plan new --initial-model`` takes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from console.files import write_file
from console.initial_model import read_initial_model
from console.output import UserError
from console.simulated import PARQUET_KEY
from simulations.result import Ending, Result, RoundRow
from trusted.apps.arrays import split_vector
from trusted.documents.layout import Layout
from trusted.errors import ProtocolError, Reason

_VERSION = 1
_MAPS = ("reported", "evaluated", "wall_s")
_TOLD = "It was not written by Result.save, or by another version of Cloister."


def save(result: Result, path: str | Path) -> Path:
    """Write ``path`` (``.parquet`` or ``.json``), and the model beside it, over what was there.

    Raises:
        UserError: another suffix. OSError: it cannot be written.
    """
    path = Path(path)
    if path.suffix == ".json":
        text = json.dumps(result_json(result), indent=1, allow_nan=False)
        write_file(path, f"{text}\n".encode(), force=True)
    elif path.suffix == ".parquet":
        write_file(path, _parquet(result), force=True)
    else:
        raise UserError(f"{path}: results are written as .parquet or .json", "Give its name one of these suffixes.")
    _save_model(result, path.with_suffix(".safetensors"))
    return path


def read(path: str | Path) -> Result:
    """What :func:`save` wrote, model included, bit by bit.

    Raises:
        UserError: it is something else, or the model is not beside it. OSError: it cannot be read.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else _from_parquet(path)
        head = _known(record)
        layout = Layout.parse(head["layout"])
        rounds = tuple(_row(entry) for entry in record["rounds"])
        ending = Ending(head["ending"])
    except (KeyError, TypeError, ValueError, ProtocolError):
        raise UserError(f"{path}: no result of a simulation", _TOLD) from None
    return Result(head["settings"], rounds, ending, layout, _model(path, layout), head.get("admission_s"))


def result_json(result: Result) -> dict[str, Any]:
    """All but the model, for programs; a figure that is not finite is null."""
    return _head(result) | {"rounds": [row_json(row) for row in result.rounds]}


def row_json(row: RoundRow) -> dict[str, Any]:
    """One round for programs."""
    return {
        "number": row.number,
        "present": row.present,
        "drawn": list(row.drawn),
        "counted": list(row.counted),
        "lost": {site: reason.name for site, reason in row.lost.items()},
        "abandoned": None if row.abandoned is None else row.abandoned.name,
        **{name: {key: _finite(value) for key, value in getattr(row, name).items()} for name in _MAPS},
        "epsilon": row.epsilon if row.epsilon is None else _finite(row.epsilon),
        "bytes_down": row.bytes_down,
        "bytes_up": row.bytes_up,
        "virtual_s": row.virtual_s,
    }


def _head(result: Result) -> dict[str, Any]:
    return {
        "schema_version": _VERSION,
        "settings": dict(result.settings),
        "ending": result.ending.value,
        "layout": result.layout.to_json(),
        "admission_s": result.admission_s,
    }


def _known(record: Mapping[str, Any]) -> Mapping[str, Any]:
    if record["schema_version"] != _VERSION:
        raise ValueError("another version")
    return record


def _row(entry: Mapping[str, Any]) -> RoundRow:
    abandoned = entry["abandoned"]
    return RoundRow(
        number=entry["number"],
        present=entry["present"],
        drawn=tuple(entry["drawn"]),
        counted=tuple(entry["counted"]),
        lost={site: Reason[name] for site, name in entry["lost"].items()},
        abandoned=None if abandoned is None else Reason[abandoned],
        reported=_numbers(entry["reported"]),
        evaluated=_numbers(entry["evaluated"]),
        epsilon=entry["epsilon"],
        bytes_down=entry["bytes_down"],
        bytes_up=entry["bytes_up"],
        virtual_s=entry["virtual_s"],
        wall_s=_numbers(entry["wall_s"]),
    )


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _parquet(result: Result) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_flat(row) for row in result.rounds]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: pa.array([row.get(name) for row in rows], type=_type(name)) for name in names}
    table = pa.table(columns).replace_schema_metadata(
        {PARQUET_KEY: json.dumps(_head(result), allow_nan=False).encode()}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _type(name: str) -> Any:
    import pyarrow as pa

    if name in ("number", "present", "bytes_down", "bytes_up"):
        return pa.int64()
    if name in ("drawn", "counted"):
        return pa.list_(pa.string())
    return pa.string() if name in ("lost", "abandoned") else pa.float64()


def _flat(row: RoundRow) -> dict[str, Any]:
    """Maps become columns such as ``evaluated.accuracy``: null where a round does not have it."""
    flat = {name: value for name, value in row_json(row).items() if name not in _MAPS}
    flat["lost"] = json.dumps(flat["lost"])
    for name in _MAPS:
        flat |= {f"{name}.{key}": value for key, value in getattr(row, name).items()}
    return flat


def _from_parquet(path: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        try:
            table = pq.read_table(file)
        except pa.ArrowInvalid as error:
            raise ValueError("not Parquet") from error
    head = json.loads((table.schema.metadata or {})[PARQUET_KEY])
    return {**head, "rounds": [_nested(flat) for flat in table.to_pylist()]}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    entry = {name: value for name, value in flat.items() if "." not in name} | {"lost": json.loads(flat["lost"])}
    for name in _MAPS:
        start = f"{name}."
        entry[name] = {
            column.removeprefix(start): value
            for column, value in flat.items()
            if column.startswith(start) and value is not None
        }
    return entry


def _save_model(result: Result, path: Path) -> None:
    from safetensors.numpy import save as safetensors

    write_file(path, safetensors(split_vector(result.layout, result.model)), force=True)


def _model(path: Path, layout: Layout) -> Any:
    beside = path.with_suffix(".safetensors")
    try:
        found = read_initial_model(beside)
    except FileNotFoundError:
        raise UserError(f"{beside} is not beside {path.name}", "Keep both files together; both were saved.") from None
    return _in_order(found.layout, found.vector, layout, beside)


def _in_order(found: Layout, vector: Any, layout: Layout, path: Path) -> Any:
    """The vector in the order of ``layout``: the file keeps tensors by name."""
    import numpy as np

    if set(found.tensors) != set(layout.tensors):
        raise UserError(f"{path}: the model of another simulation", "Keep the two files that were saved together.")
    place, places = 0, {}
    for tensor in found.tensors:
        places[tensor.name] = slice(place, place + tensor.elements)
        place += tensor.elements
    return np.concatenate([vector[places[tensor.name]] for tensor in layout.tensors])
