"""The fixed order, names and shapes of a model's tensors (docs/protocol.md §2, plan.model). Trust zone: every TEE.

An update is one dense float32 vector in this layout: the same size for everyone, so that no size tells anything.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from trusted.documents.schema import matching, rule, unique
from trusted.errors import DocumentError, Reason, WireError
from trusted.wire import Fields, encode_json, sha256

MAX_ELEMENTS = 1 << 31  # 8 GiB of float32; stops a plan that no enclave could hold
MAX_TENSORS = 16_384
MAX_DIMENSIONS = 8
BYTES_PER_ELEMENT = 4
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_.:/@+-]{1,256}")


class Dtype(Enum):
    """How the app sees a tensor. All travel and are folded as float32: ``int64`` is rounded back to whole numbers,
    ``float64`` keeps 24 bits of each number (an error of 2^-24 of it, each round) and no number beyond 3.4e38."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    INT64 = "int64"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name in the app, its dtype and its shape; a scalar has the shape ``()``."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """The entry of ``plan.model.layout``."""
        return {"name": self.name, "dtype": self.dtype.value, "shape": list(self.shape)}

    @classmethod
    def read(cls, value: Any, name: str) -> TensorSpec:
        """One entry of a layout.

        Raises:
            WireError, DocumentError: a field is missing, unknown or out of bounds.
        """
        with Fields(value, name) as fields:
            tensor_name = matching(fields.text("name"), _TENSOR_NAME, fields.path("name"))
            dtype = Dtype(fields.choice("dtype", [dtype.value for dtype in Dtype]))
            shape = fields.items("shape", max_items=MAX_DIMENSIONS)
        for size in shape:
            if isinstance(size, bool) or not isinstance(size, int):
                raise WireError(Reason.WRONG_TYPE, f"{name}.shape: whole numbers expected")
            rule(1 <= size <= MAX_ELEMENTS, f"{name}.shape", f"1 to {MAX_ELEMENTS} in each dimension expected")
        return cls(tensor_name, dtype, tuple(shape))


@dataclass(frozen=True)
class Layout:
    """The tensors of a model, in the order in which the flat vector holds them."""

    tensors: tuple[TensorSpec, ...]

    @classmethod
    def parse(cls, value: Any, name: str = "layout") -> Layout:
        """The layout of a JSON list, whose writer may be lying.

        Raises:
            WireError, DocumentError: not a list of 1 to 16384 tensors with different names and 2^31 elements at most.
        """
        if not isinstance(value, list):
            raise WireError(Reason.WRONG_TYPE, f"{name}: a list expected")
        if not 1 <= len(value) <= MAX_TENSORS:
            raise DocumentError(Reason.DOCUMENT_RULE, f"{name}: 1 to {MAX_TENSORS} tensors expected")
        layout = cls(tuple(TensorSpec.read(entry, name) for entry in value))
        unique([tensor.name for tensor in layout.tensors], name, low=1)
        rule(layout.elements <= MAX_ELEMENTS, name, f"at most {MAX_ELEMENTS} elements in all expected")
        return layout

    @cached_property
    def elements(self) -> int:
        """How many numbers the flat vector holds."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def size_bytes(self) -> int:
        """The length of the flat float32 vector."""
        return self.elements * BYTES_PER_ELEMENT

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON: what the header of every blob names."""
        return sha256(self.encode())

    def to_json(self) -> list[dict[str, Any]]:
        """``plan.model.layout``."""
        return [tensor.to_json() for tensor in self.tensors]

    def encode(self) -> bytes:
        """Canonical JSON."""
        return encode_json(self.to_json())


def initial_digest(layout: Layout, vector: bytes | memoryview) -> bytes:
    """``plan.model.initial_sha256``: SHA-256 over the layout's JSON, then the flat float32 little-endian vector.

    Raises:
        DocumentError: INITIAL_MODEL: ``vector`` has not exactly four bytes for each element.
    """
    size_bytes = len(vector) if isinstance(vector, bytes) else vector.nbytes
    if size_bytes != layout.size_bytes:
        raise DocumentError(Reason.INITIAL_MODEL, "initial model: four bytes for each element of the layout expected")
    digest = hashlib.sha256(layout.encode())
    digest.update(vector)
    return digest.digest()
