"""Apps that still give ``ClientApp`` a ``client_fn`` (NumPyClient). Trust zone: worker.

Flower carries their calls in records with fixed names, and numbers instead of tensor names (flwr 1.41,
``compat/common/recorddict_compat.py``); the order is that of the plan's layout, as it is that of a ``state_dict``.
Imported by ``worker.flower`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from trusted.apps.arrays import Arrays
from trusted.errors import AppError, Reason
from worker.trainer import EXAMPLES, Call, Reply

_REQUEST = {Call.TRAIN: "fitins", Call.EVALUATE: "evaluateins"}
_ANSWER = {Call.TRAIN: "fitres", Call.EVALUATE: "evaluateres"}
_OLDER_NAMES = {"proximal-mu": "proximal_mu"}  # FedProx then and now
_OK = 0
_EVALUATE_NOT_IMPLEMENTED = 4  # flwr.common.typing.Code


def legacy_request(
    call: Call, arrays: Arrays, round_number: int, settings: Mapping[str, bool | int | float | str]
) -> RecordDict:
    """What ``NumPyClient.fit`` or ``evaluate`` is called with: the arrays in order; as config ``server_round``."""
    older = {_OLDER_NAMES.get(name, name): value for name, value in settings.items()}
    numbered = {str(place): Array(array) for place, array in enumerate(arrays.values())}
    records: dict[str, Any] = {
        f"{_REQUEST[call]}.parameters": ArrayRecord(numbered),
        f"{_REQUEST[call]}.config": ConfigRecord({**older, "server_round": round_number}),
    }
    return RecordDict(records)


def legacy_reply(call: Call, content: RecordDict, names: list[str]) -> Reply:
    """What it returned, with the tensors' names back; nothing from an app that has no ``evaluate``.

    Raises:
        AppError: APP_FAILED: a status that is not OK. APP_REPLY: a record is missing, or another number of arrays.
    """
    answer = _ANSWER[call]
    try:
        status = content.config_records[f"{answer}.status"]["code"]
        if call is Call.EVALUATE and status == _EVALUATE_NOT_IMPLEMENTED:
            return Reply({}, {})
        if status != _OK:
            raise AppError(Reason.APP_FAILED, f"app: its {call.value} function answered with an error")
        metrics: dict[str, object] = dict(content.config_records[f"{answer}.metrics"])
        metrics[EXAMPLES] = content.metric_records[f"{answer}.num_examples"]["num_examples"]
        if call is Call.EVALUATE:
            metrics["val-loss"] = content.metric_records[f"{answer}.loss"]["loss"]
            return Reply({}, metrics)
        arrays = [array.numpy() for array in content.array_records[f"{answer}.parameters"].values()]
    except (KeyError, TypeError, ValueError, EOFError, OSError):
        raise AppError(Reason.APP_REPLY, "app's reply: not in the form of a NumPyClient's") from None
    if len(arrays) != len(names):
        raise AppError(Reason.APP_REPLY, "app's reply: as many arrays as the plan's layout has expected")
    return Reply(dict(zip(names, arrays, strict=True)), metrics)
