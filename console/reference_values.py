"""Reference values: what a platform will measure, told before anything is started. Trust zone: operator.

Whoever builds an image computes them from the image, and the members sign them into the charter. A value computed here
says what these files measure to, and nothing about whether the files are good.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from console.output import UserError
from trusted.wire import Json

MAX_IMAGE_BYTES = 4 << 30
MAX_INITDATA_BYTES = 1 << 20
_INITDATA_ALGORITHMS = ("sha256", "sha384", "sha512")
_INITDATA_VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """What one image will measure to on one platform.

    Attributes:
        format: the evidence format that it is for: the key of the charter's policy.
        measurement: the value of the knob ``measurements``.
        parts: further values by name, for the other knobs and for comparison.
        knobs: further knobs of the policy, ready to be pasted.
        verified: how far this computation was compared with real boots, in words.
    """

    format: str
    measurement: bytes
    parts: tuple[tuple[str, str], ...]
    verified: str
    knobs: dict[str, Json] = field(default_factory=dict)

    def fragment(self) -> dict[str, Json]:
        """The part of the charter's policy that these values are for."""
        listed: Json = [{"value": self.measurement.hex(), "until": None}]
        return {self.format: {"measurements": listed, **self.knobs}}


def read_image(path: Path) -> bytes:
    """The bytes of an image.

    Raises:
        UserError: too large to be one.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise UserError(f"{path} is larger than {MAX_IMAGE_BYTES} bytes", "Name the image itself, not a disk.")
    return path.read_bytes()


def initdata_digest(path: Path) -> tuple[str, bytes]:
    """Algorithm and digest of a Confidential Containers initdata file: over its bytes, by the algorithm that it names.

    Raises:
        UserError: it is no such file.
        OSError: it cannot be read.
    """
    import tomllib

    with path.open("rb") as file:
        content = file.read(MAX_INITDATA_BYTES + 1)
    hint = 'Write `algorithm = "sha256"` (SEV-SNP) or "sha384" (TDX), `version = "0.1.0"` and a table [data].'
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise UserError(f"{path} is no TOML", hint) from None
    algorithm = document.get("algorithm")
    known = algorithm in _INITDATA_ALGORITHMS and document.get("version") == _INITDATA_VERSION
    if len(content) > MAX_INITDATA_BYTES or not known or not isinstance(document.get("data"), dict):
        raise UserError(f"{path} is no initdata of version {_INITDATA_VERSION}", hint)
    return str(algorithm), hashlib.new(str(algorithm), content).digest()
