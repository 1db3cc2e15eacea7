"""What a scoring service takes and gives, and how often: part of what its evidence proves. Trust zone: recipient TEE.

The members' app declares the columns. Who runs the service says how much it answers, and a grant may allow less.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from trusted.documents.schema import rule
from trusted.documents.terms.dataset import read_columns
from trusted.documents.terms.scoring import ScoringLimits
from trusted.errors import DocumentError, Reason
from trusted.wire import Fields, decode_json, encode_json

MAX_INPUTS = 4096
MAX_OUTPUTS = 16
MAX_DIGITS = 15
_OUTPUT = re.compile(r"[a-z0-9_.-]{1,64}")
_MAX_BYTES = 512 << 10


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the members' app says about itself in its bundle, whose digest they signed.

    Attributes:
        inputs: the columns that a row has, in their order; each of them a column of the plan's dataset.
        outputs: the names of the scores of a row, 1 to 16.
        digits: decimal places to which scores are rounded; None: as the app computes them.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    digits: int | None

    @classmethod
    def read(cls, value: Any, name: str = "scoring") -> Declaration:
        """The declaration in an object; of a bundle's ``[tool.cloister.scoring]``, or of a service's statement.

        Raises:
            WireError, DocumentError: a field is missing, unknown or out of bounds.
        """
        with Fields(value, name) as fields:
            inputs, outputs = read_columns(fields, "inputs", low=1), read_columns(fields, "outputs", low=1)
            digits = fields.integer("digits", low=0, high=MAX_DIGITS) if fields.has("digits") else None
        rule(len(inputs) <= MAX_INPUTS, f"{name}.inputs", f"at most {MAX_INPUTS} expected")
        rule(len(outputs) <= MAX_OUTPUTS, f"{name}.outputs", f"at most {MAX_OUTPUTS} expected")
        named = all(_OUTPUT.fullmatch(output) for output in outputs)
        rule(named, f"{name}.outputs", "1 to 64 of a-z, 0-9, '_', '.' and '-' each expected")
        return cls(inputs, outputs, digits)

    def require_within(self, columns: tuple[str, ...]) -> None:
        """Refuse an app that asks for what the plan's dataset does not have.

        Raises:
            DocumentError: SCORING_DECLARATION.
        """
        if not set(self.inputs) <= set(columns):
            raise DocumentError(
                Reason.SCORING_DECLARATION, "app.scoring.inputs: columns of plan.dataset.columns expected"
            )

    def to_json(self) -> dict[str, Any]:
        """The object of docs/protocol.md §16."""
        digits = {} if self.digits is None else {"digits": self.digits}
        return {"inputs": list(self.inputs), "outputs": list(self.outputs), **digits}


@dataclass(frozen=True, slots=True)
class Statement:
    """What a service says it serves; its evidence is bound to these bytes.

    Attributes:
        release_sha256: of the release document that an attested aggregator signed.
        model_sha256: of the released model, which the service opened and compared.
        bundle_sha256: of the app that scores; the plan pins the same.
    """

    release_sha256: bytes
    model_sha256: bytes
    bundle_sha256: bytes
    declaration: Declaration
    limits: ScoringLimits

    def within(self, limits: ScoringLimits) -> Statement:
        """The same under limits that are no wider than both."""
        return replace(self, limits=self.limits.stricter(limits))

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_json(
            {
                "release": self.release_sha256.hex(),
                "model_sha256": self.model_sha256.hex(),
                "bundle": self.bundle_sha256.hex(),
                "scoring": self.declaration.to_json(),
                "limits": self.limits.to_json(),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Statement:
        """The statement that ``data`` spells, whose writer may be lying.

        Raises:
            WireError, DocumentError: not canonical, or a field is missing, unknown or out of bounds.
        """
        with Fields(decode_json(data, max_bytes=_MAX_BYTES), "statement") as fields:
            return cls(
                fields.octets("release", 32),
                fields.octets("model_sha256", 32),
                fields.octets("bundle", 32),
                Declaration.read(fields.mapping("scoring"), "statement.scoring"),
                ScoringLimits.read(fields.mapping("limits"), "statement.limits"),
            )
