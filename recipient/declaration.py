"""What the members' app declares that it scores: ``[tool.cloister.scoring]`` of its pyproject.toml.

Trust zone: recipient TEE. The file comes from the bundle whose digest the plan pins, so every member signed it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from trusted.errors import AppError, ProtocolError, Reason
from trusted.scoring.terms import Declaration


def read_declaration(app_dir: Path, columns: tuple[str, ...]) -> Declaration:
    """The declaration of the unpacked app in ``app_dir``, whose inputs are among the plan's ``columns``.

    Raises:
        AppError: SCORING_DECLARATION: there is none, or it breaks a rule.
    """
    try:
        value = tomllib.loads((app_dir / "pyproject.toml").read_text("utf-8"))["tool"]["cloister"]["scoring"]
    except (OSError, ValueError, KeyError, TypeError):
        rule = "a table with inputs and outputs expected (docs/serving.md); this app does not say what it scores"
        raise AppError(Reason.SCORING_DECLARATION, f"app bundle: [tool.cloister.scoring]: {rule}") from None
    try:
        declaration = Declaration.read(value, "app.scoring")
        declaration.require_within(columns)
    except ProtocolError as error:
        raise AppError(Reason.SCORING_DECLARATION, error.detail) from None
    return declaration
