"""An app's configuration: its own defaults with the plan's values over them. Trust zone: every TEE that runs an app."""

from __future__ import annotations

from collections.abc import Mapping

from trusted.errors import AppError, Reason

Scalar = bool | int | float | str


def fuse_config(defaults: Mapping[str, Scalar], overrides: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The app's flattened defaults with the plan's values over them, each of the default's type.

    RFC 8785 writes 1.0 as 1, so a whole number stands for a float where the default is one.

    Raises:
        AppError: BUNDLE_MALFORMED: a key that the app does not have, or a value of another type.
    """
    fused = dict(defaults)
    for key, value in overrides.items():
        if key not in defaults:
            raise AppError(Reason.BUNDLE_MALFORMED, "plan.app.config: a key that [tool.flwr.app.config] does not have")
        kind = type(defaults[key])
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise AppError(Reason.BUNDLE_MALFORMED, "plan.app.config: a value of another type than the app's default")
        fused[key] = value
    return fused


def as_defaults(defaults: Mapping[str, Scalar], given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """``given`` for a message; a whole number is a float again where the app's run config has a float of that name.

    RFC 8785 writes 1.0 as 1, and a message has no defaults of its own.
    """
    floats = {key for key, value in defaults.items() if type(value) is float}
    return {key: float(value) if key in floats and type(value) is int else value for key, value in given.items()}
