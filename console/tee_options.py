"""Options of the commands that start an enclave. Trust zone: operator."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Tee(StrEnum):
    """Where evidence comes from. There is no default: which protection a site has is said, not guessed."""

    HARDWARE = "hardware"
    SOFTWARE = "software"


TeeChoice = Annotated[
    Tee, typer.Option("--tee", help="hardware, or software for trials: NO HARDWARE PROTECTION.", show_default=False)
]
Chip = Annotated[
    Path | None, typer.Option(help="Folder of `cloister tee chip`; with --tee software.", show_default=False)
]
