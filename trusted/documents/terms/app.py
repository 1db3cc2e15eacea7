"""``plan.app``: the members' program. Trust zone: every TEE."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from trusted.documents.schema import DIGEST_BYTES, matching, rule
from trusted.errors import Reason, WireError
from trusted.wire import Fields

_CONFIG_KEY = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_MAX_CONFIG_TEXT = 1024
_MAX_ROUND = 10_000
_MAX_CHANGES = 256
_MESSAGES = ("train_config", "evaluate_config")
_OUR_OWN = ("server-round", "server_round")  # the worker writes them into every message

Scalar = bool | int | float | str


class AppKind(Enum):
    """What kind of program trains."""

    FLOWER = "flower"


Settings = tuple[tuple[str, Scalar], ...]
"""Sorted by key."""


@dataclass(frozen=True, slots=True)
class Change:
    """From the round ``from_round`` on, messages say this too, over what they said before."""

    from_round: int
    train_config: Settings = ()
    evaluate_config: Settings = ()

    @classmethod
    def read(cls, value: Any, path: str) -> Change:
        """One of ``plan.app.changes``."""
        with Fields(value, path) as fields:
            from_round = fields.integer("from_round", low=2, high=_MAX_ROUND)
            messages = {key: _message_settings(fields, key) for key in _MESSAGES}
            rule(any(messages.values()), path, f"{' or '.join(_MESSAGES)} expected")
        return cls(from_round, **messages)

    def to_json(self) -> dict[str, Any]:
        """One of ``plan.app.changes``."""
        return {"from_round": self.from_round} | _messages_json(self)


@dataclass(frozen=True, slots=True)
class App:
    """The members' program: a Flower App Bundle by digest, and its configuration.

    Attributes:
        config: over the app's own ``[tool.flwr.app.config]``, sorted by key; so are the others.
        train_config: goes with every message to train, as ``Strategy.start(train_config=...)`` sends it, beside the
            round's number.
        evaluate_config: the same with every message to evaluate.
        changes: what messages say otherwise from a later round on, in the order of rounds.
    """

    kind: AppKind
    bundle_sha256: bytes
    config: Settings
    train_config: Settings = ()
    evaluate_config: Settings = ()
    changes: tuple[Change, ...] = ()

    @classmethod
    def read(cls, value: Any) -> App:
        """``plan.app``. RFC 8785 writes 1.0 as 1: the app's own default decides whether a number is a float."""
        with Fields(value, "plan.app") as fields:
            kind = AppKind(fields.choice("kind", [kind.value for kind in AppKind]))
            bundle_sha256 = fields.octets("bundle_sha256", DIGEST_BYTES)
            config = _settings(fields, "config")
            messages = {key: _message_settings(fields, key) for key in _MESSAGES}
            changes = _read_changes(fields) if fields.has("changes") else ()
        return cls(kind, bundle_sha256, config, **messages, changes=changes)

    def to_json(self) -> dict[str, Any]:
        """``plan.app``."""
        return {
            "kind": self.kind.value,
            "bundle_sha256": self.bundle_sha256.hex(),
            "config": dict(self.config),
            **_messages_json(self),
            **({"changes": [change.to_json() for change in self.changes]} if self.changes else {}),
        }


def _messages_json(said: App | Change) -> dict[str, Any]:
    named = {"train_config": dict(said.train_config), "evaluate_config": dict(said.evaluate_config)}
    return {key: settings for key, settings in named.items() if settings}


def _read_changes(fields: Fields) -> tuple[Change, ...]:
    path, entries = fields.path("changes"), fields.items("changes", max_items=_MAX_CHANGES)
    rule(len(entries) > 0, path, "at least one entry expected, or no such field")
    changes = tuple(Change.read(entry, path) for entry in entries)
    rounds = [change.from_round for change in changes]
    rule(rounds == sorted(set(rounds)), path, "each from_round later than the one before expected")
    return changes


def _message_settings(fields: Fields, key: str) -> Settings:
    if not fields.has(key):
        return ()
    entries = _settings(fields, key)
    rule(len(entries) > 0, fields.path(key), "at least one entry expected, or no such field")
    given = {name for name, _ in entries}
    rule(given.isdisjoint(_OUR_OWN), fields.path(key), f"none of {', '.join(_OUR_OWN)} expected: the round's number")
    return entries


def _settings(fields: Fields, key: str) -> Settings:
    config, path = fields.mapping(key), fields.path(key)
    rule(len(config) <= 256, path, "at most 256 entries expected")
    return tuple((matching(name, _CONFIG_KEY, path), _scalar(config[name], path)) for name in sorted(config))


def _scalar(value: Any, path: str) -> Scalar:
    if not isinstance(value, bool | int | float | str):
        raise WireError(Reason.WRONG_TYPE, f"{path}: true, false, a number or a string expected")
    if isinstance(value, str):
        rule(len(value) <= _MAX_CONFIG_TEXT, path, f"at most {_MAX_CONFIG_TEXT} characters expected")
    return value
