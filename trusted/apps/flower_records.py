"""Flower's records of a message's plain values, and back. Trust zone: the confined child of a TEE that runs an app.

Importing this module imports flwr, which imports gRPC: ``worker.flower`` and the aggregator's
``server_flower`` alone may.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from trusted.apps.messages import AppRecord, ArrayValue, Opaque, RecordKind
from trusted.errors import AppError, Reason

_NUMPY = "numpy.ndarray"


def plain_records(content: RecordDict) -> tuple[AppRecord, ...]:
    """The records of ``content``, which an app made, as plain values.

    Raises:
        AppError: MESSAGE_FORM: an array that NumPy reads only by running code, or a record of no known kind.
    """
    return tuple(_plain(str(name), record) for name, record in content.items())


def flower_records(records: tuple[AppRecord, ...]) -> RecordDict:
    """Flower's own records of ``records``."""
    return RecordDict({record.name: _flower(record) for record in records})


def _plain(name: str, record: Any) -> AppRecord:
    if isinstance(record, ArrayRecord):
        return AppRecord(name, RecordKind.ARRAYS, {key: _plain_array(array) for key, array in record.items()})
    for kind, flower in ((RecordKind.METRICS, MetricRecord), (RecordKind.CONFIG, ConfigRecord)):
        if isinstance(record, flower):
            return AppRecord(name, kind, dict(record))
    raise AppError(Reason.MESSAGE_FORM, "app's message: a record that is none of Flower's")


def _plain_array(array: Array) -> ArrayValue:
    if array.stype != _NUMPY:
        return Opaque(array.dtype, tuple(array.shape), array.stype, array.data)
    try:
        return np.asarray(array.numpy())  # Flower loads it with allow_pickle=False
    except (TypeError, ValueError, EOFError, OSError):
        raise AppError(Reason.MESSAGE_FORM, "app's message: arrays in Flower's NumPy form expected") from None


def _flower(record: AppRecord) -> Any:
    if record.kind is RecordKind.METRICS:
        return MetricRecord(dict(record.values))
    if record.kind is RecordKind.CONFIG:
        return ConfigRecord(dict(record.values))
    return ArrayRecord({key: _flower_array(value) for key, value in record.values.items()})


def _flower_array(value: ArrayValue) -> Array:
    if isinstance(value, Opaque):
        return Array(dtype=value.dtype, shape=tuple(value.shape), stype=value.stype, data=value.data)
    return Array(value)
