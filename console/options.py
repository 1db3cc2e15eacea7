"""Options that several commands share, spelled and explained once. Trust zone: the member's own machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource

PassphraseFile = Annotated[
    Path | None, typer.Option(help="Read the key's passphrase from the first line of this file.")
]
PassphraseFd = Annotated[int | None, typer.Option(help="Read the key's passphrase from this file descriptor.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; the document is shown all the same.")]
Key = Annotated[Path, typer.Option(help="Your signing-key.pem.", show_default=False)]
CharterFile = Annotated[Path, typer.Option("--charter", help="The signed charter (DSSE).", show_default=False)]
PlanFile = Annotated[Path, typer.Option("--plan", help="The signed plan (DSSE).", show_default=False)]
Coordinator = Annotated[str, typer.Option(help="The host's name:port.", show_default=False)]
Ca = Annotated[Path | None, typer.Option(help="The host's CA file; default: the public ones.")]
Proxy = Annotated[str, typer.Option(help="http://name:port of a CONNECT proxy.")]
ValidDays = Annotated[int, typer.Option(min=1, max=3650, help="Days from now until it expires.")]


class FoldingRule(StrEnum):
    """How a plan may fold updates; the names of :mod:`trusted.documents.terms`."""

    WEIGHTED_MEAN = "weighted-mean"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed-mean"
    KRUM = "krum"
    MULTI_KRUM = "multi-krum"
    GEOMETRIC_MEDIAN = "geometric-median"
    SERVER_APP = "server-app"


class ModelEncoding(StrEnum):
    """How a plan may spell the round's model; the names of :mod:`trusted.encoding`, which is too slow to load here."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class UpdateEncoding(StrEnum):
    """How a plan may spell updates."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


def given_options(context: typer.Context) -> frozenset[str]:
    """The names of those parameters of a command that a person gave."""
    given = (name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE)
    return frozenset(given)
