"""Public events and log lines through one allow-list (docs/protocol.md §11). Trust zone: host.

Whatever writes an event may be careless: a field that is not on the list, or not of its form, is dropped and counted,
never stored, shown or logged. So no payload reaches a person's screen by way of an event.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from coordinator.host.limits import MAX_EVENT_BYTES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,95}")
_OUTCOME = re.compile(r"[A-Za-z0-9._%-]{1,32}( [A-Za-z0-9._%-]{1,32}){0,3}")  # ``train 50 %``
_HEX = re.compile(r"[0-9a-f]{1,128}")
_HEAD = re.compile(r"\d{1,16}:[0-9a-f]{64}")  # size and root of a log
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
# A signed attestation result (docs/protocol.md §3.5), which holds public values only: a CPU and eight devices fit.
_EAR = re.compile(r"[A-Za-z0-9_-]{1,128}\.[A-Za-z0-9_-]{1,32768}\.[A-Za-z0-9_-]{1,128}")
_COUNT_LIMIT = 1 << 53
_ITEMS = 256


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_outcome(value: object) -> bool:
    return isinstance(value, str) and _OUTCOME.fullmatch(value) is not None


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _is_time(value: object) -> bool:
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def _is_ear(value: object) -> bool:
    return isinstance(value, str) and _EAR.fullmatch(value) is not None


def _is_head(value: object) -> bool:
    return isinstance(value, str) and _HEAD.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _COUNT_LIMIT


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_names(value: object) -> bool:
    return _is_name(value) or (isinstance(value, list) and len(value) <= _ITEMS and all(map(_is_name, value)))


def _is_metrics(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _ITEMS
        and all(_is_name(key) and _is_number(item) for key, item in value.items())
    )


FIELDS: Mapping[str, Callable[[object], bool]] = {
    "ts": _is_time,
    "event": _is_name,
    "plan": _is_hex,
    "round": _is_count,
    "rounds": _is_count,
    "member": _is_name,
    "session": lambda value: _is_count(value) or _is_name(value),
    "outcome": _is_outcome,
    "reason": lambda value: value is None or _is_name(value) or _is_count(value),
    "bytes": _is_count,
    "seconds": _is_number,
    "assurance": _is_name,
    "measurement": _is_hex,
    "waiting_for": _is_names,
    "metrics": _is_metrics,
    "withheld": _is_names,  # metrics that the plan keeps back, each with the rule: ``auc:min_sites``
    "ear": _is_ear,
    "size": _is_count,  # of the run's log, in leaves
    "root": _is_hex,
    "held": _is_head,
    "offered": _is_head,
}
_STORED_ONLY = frozenset({"ear"})  # whoever wants it asks for the events: a log line stays short
_LOG_FIELDS = frozenset({"port", "door", "key_id"})  # of the process itself; key_id: which key a broker was asked for


@dataclass(frozen=True, slots=True)
class PublicEvent:
    """An event of which every field is on the list and has its form. ``dropped`` fields were not."""

    fields: Mapping[str, Any]
    dropped: int

    @property
    def name(self) -> str:
        """What happened: ``round-opened``, ``admitted``…"""
        return str(self.fields["event"])

    def encode(self) -> str:
        """JSON, keys sorted, ASCII, so that it is one line everywhere."""
        return json.dumps(dict(self.fields), sort_keys=True, separators=(",", ":"))


def public_event(claimed: Mapping[str, Any], *, plan: bytes, now: datetime) -> PublicEvent:
    """``claimed`` without what may not be shown. The plan is that of the door it came through, whatever it claims."""
    kept = {key: value for key, value in claimed.items() if key in FIELDS and FIELDS[key](value)}
    dropped = len(claimed) - len(kept)
    kept["plan"] = plan.hex()
    kept.setdefault("ts", timestamp(now))
    kept.setdefault("event", "unnamed")
    return PublicEvent(kept, dropped)


def decode_event(body: bytes, *, plan: bytes, now: datetime) -> PublicEvent:
    """The event in the body of an EVENT message. What is no JSON object becomes an ``unreadable`` event."""
    try:
        claimed = json.loads(body) if len(body) <= MAX_EVENT_BYTES else None
    except (ValueError, RecursionError):
        claimed = None
    if not isinstance(claimed, dict):
        claimed = {"event": "unreadable", "bytes": len(body)}
    return public_event(claimed, plan=plan, now=now)


def timestamp(now: datetime) -> str:
    """``YYYY-MM-DDTHH:MM:SSZ``."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class AllowListFormatter(logging.Formatter):
    """One JSON object for each line: the name in the message, and those ``extra`` fields that are on the list.

    Arguments, exception texts and traces are not formatted: they may quote a payload. An exception shows as its type.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line for ``record``."""
        line: dict[str, Any] = {
            "ts": timestamp(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "component": record.name,
            "event": record.msg if _is_name(record.msg) else "unlisted",  # a library's text may quote anything
        }
        for key, value in record.__dict__.items():
            if key in _STORED_ONLY:
                continue
            listed = FIELDS[key](value) if key in FIELDS else key in _LOG_FIELDS and isinstance(value, str | int)
            if listed:
                line[key] = value
        if record.exc_info and record.exc_info[0] is not None:
            line["outcome"] = record.exc_info[0].__name__
        return json.dumps(line, sort_keys=True)


def log_to(target: TextIO, level: int = logging.INFO) -> None:
    """Send every log line of this process through :class:`AllowListFormatter` to ``target``, and nowhere else."""
    stream = logging.StreamHandler(target)
    stream.setFormatter(AllowListFormatter())
    logging.basicConfig(level=level, handlers=[stream], force=True)
