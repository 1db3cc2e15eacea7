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

Scalar = bool | int | float | str


class AppKind(Enum):
    """What kind of program trains."""

    FLOWER = "flower"


@dataclass(frozen=True, slots=True)
class App:
    """The members' program: a Flower App Bundle by digest, and its run configuration."""

    kind: AppKind
    bundle_sha256: bytes
    config: tuple[tuple[str, Scalar], ...]  # sorted by key

    @classmethod
    def read(cls, value: Any) -> App:
        """``plan.app``. RFC 8785 writes 1.0 as 1: the app's own default decides whether a number is a float."""
        with Fields(value, "plan.app") as fields:
            kind = AppKind(fields.choice("kind", [kind.value for kind in AppKind]))
            bundle_sha256 = fields.octets("bundle_sha256", DIGEST_BYTES)
            config = fields.mapping("config")
        rule(len(config) <= 256, "plan.app.config", "at most 256 entries expected")
        entries = tuple((matching(key, _CONFIG_KEY, "plan.app.config"), _scalar(config[key])) for key in sorted(config))
        return cls(kind, bundle_sha256, entries)

    def to_json(self) -> dict[str, Any]:
        """``plan.app``."""
        return {"kind": self.kind.value, "bundle_sha256": self.bundle_sha256.hex(), "config": dict(self.config)}


def _scalar(value: Any) -> Scalar:
    if not isinstance(value, bool | int | float | str):
        raise WireError(Reason.WRONG_TYPE, "plan.app.config: true, false, a number or a string expected")
    if isinstance(value, str):
        rule(len(value) <= _MAX_CONFIG_TEXT, "plan.app.config", f"at most {_MAX_CONFIG_TEXT} characters expected")
    return value
