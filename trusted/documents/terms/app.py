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
_OUR_OWN = ("server-round", "server_round")  # the worker writes them into every message

Scalar = bool | int | float | str


class AppKind(Enum):
    """What kind of program trains."""

    FLOWER = "flower"


@dataclass(frozen=True, slots=True)
class App:
    """The members' program: a Flower App Bundle by digest, and its configuration.

    Attributes:
        config: over the app's own ``[tool.flwr.app.config]``, sorted by key; so are the others.
        train_config: goes with every message to train, as ``Strategy.start(train_config=...)`` sends it. Every round
            has the same, beside its number; the app may compute from that.
        evaluate_config: the same with every message to evaluate.
    """

    kind: AppKind
    bundle_sha256: bytes
    config: tuple[tuple[str, Scalar], ...]
    train_config: tuple[tuple[str, Scalar], ...] = ()
    evaluate_config: tuple[tuple[str, Scalar], ...] = ()

    @classmethod
    def read(cls, value: Any) -> App:
        """``plan.app``. RFC 8785 writes 1.0 as 1: the app's own default decides whether a number is a float."""
        with Fields(value, "plan.app") as fields:
            kind = AppKind(fields.choice("kind", [kind.value for kind in AppKind]))
            bundle_sha256 = fields.octets("bundle_sha256", DIGEST_BYTES)
            config = _settings(fields, "config")
            messages = {key: _message_settings(fields, key) for key in ("train_config", "evaluate_config")}
        return cls(kind, bundle_sha256, config, **messages)

    def to_json(self) -> dict[str, Any]:
        """``plan.app``."""
        named = {"train_config": dict(self.train_config), "evaluate_config": dict(self.evaluate_config)}
        return {
            "kind": self.kind.value,
            "bundle_sha256": self.bundle_sha256.hex(),
            "config": dict(self.config),
            **{key: settings for key, settings in named.items() if settings},
        }


def _message_settings(fields: Fields, key: str) -> tuple[tuple[str, Scalar], ...]:
    if not fields.has(key):
        return ()
    entries = _settings(fields, key)
    rule(len(entries) > 0, fields.path(key), "at least one entry expected, or no such field")
    given = {name for name, _ in entries}
    rule(given.isdisjoint(_OUR_OWN), fields.path(key), f"none of {', '.join(_OUR_OWN)} expected: the round's number")
    return entries


def _settings(fields: Fields, key: str) -> tuple[tuple[str, Scalar], ...]:
    config, path = fields.mapping(key), fields.path(key)
    rule(len(config) <= 256, path, "at most 256 entries expected")
    return tuple((matching(name, _CONFIG_KEY, path), _scalar(config[name], path)) for name in sorted(config))


def _scalar(value: Any, path: str) -> Scalar:
    if not isinstance(value, bool | int | float | str):
        raise WireError(Reason.WRONG_TYPE, f"{path}: true, false, a number or a string expected")
    if isinstance(value, str):
        rule(len(value) <= _MAX_CONFIG_TEXT, path, f"at most {_MAX_CONFIG_TEXT} characters expected")
    return value
