"""Three members whose every secret the test knows: rows, numbers, file names; and an app that sends what it read."""

from __future__ import annotations

import csv
import random
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.canary.needles import RUN, Pattern, number_needle, text_needle, vector_needle

NAMES = ("clinic-a", "clinic-b", "clinic-c")
RECIPIENT = NAMES[0]
COLUMNS = ("patient", "reading", "examples", "score", "loss", "pause")
ROWS = 40
ELEMENTS = 280_000  # 1.12 MB: an update takes two messages of gRPC
LISTED_METRIC = "loss"

_draw = random.SystemRandom()

PYPROJECT = """\
[project]
name = "canary"
version = "1.0.0"
license = { file = "LICENSE" }

[tool.flwr.app]
publisher = "tests"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "canary_app.server_app:app"
clientapp = "canary_app.client_app:app"
"""

# Adds the first four readings to every row of the model, and tells its own log the truth about what it was given and
# what it sends: floats are not added exactly. It also tells whoever may listen who its patients are: on stderr, in a
# warning, a file and its name, a metric's name, its process's title, and through any socket that it gets.
CLIENT = """\
import contextlib
import csv
import ctypes
import json
import socket
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    (file,) = Path(str(context.node_config["data-path"])).glob("*.csv")
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    model = message.content["arrays"]["w"].numpy()
    trained = model + np.array([float(row["reading"]) for row in rows[:4]], np.float32)
    told = {"model": model[0], "trained": trained[0], "update": (trained - model)[0]}
    print(json.dumps({name: value.tolist() for name, value in told.items()}), rows[0]["patient"], flush=True)
    patient = rows[0]["patient"]
    print(patient, file=sys.stderr, flush=True)
    warnings.warn(patient)
    Path(patient).write_text(patient)
    ctypes.CDLL(None).prctl(15, patient[-15:].encode(), 0, 0, 0)
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_VSOCK):
        with contextlib.suppress(OSError), socket.socket(family) as line:
            line.connect(("127.0.0.1", 9))
            line.send(patient.encode())
    time.sleep(float(rows[0]["pause"]))
    numbers = {name: float(rows[0][name]) for name in ("score", "loss")}
    metrics = MetricRecord({"num-examples": int(rows[0]["examples"]), **numbers, patient: 1.0})
    content = {"arrays": ArrayRecord({"w": Array(trained)}), "metrics": metrics}
    return Message(RecordDict(content), reply_to=message)
"""


@dataclass(frozen=True, slots=True)
class SiteSecrets:
    """What one member must keep: drawn at random, so that it stands nowhere but in its own file."""

    name: str
    file_token: str
    patients: tuple[str, ...]
    notes: tuple[str, ...]
    readings: tuple[float, ...]
    examples: int
    score: float
    loss: float

    @classmethod
    def drawn(cls, name: str) -> SiteSecrets:
        """Fresh secrets."""
        return cls(
            name=name,
            file_token=secrets.token_hex(10),
            patients=tuple(f"patient-{secrets.token_hex(10)}" for _ in range(ROWS)),
            notes=tuple(f"note-{secrets.token_hex(10)}" for _ in range(ROWS)),
            readings=tuple(_draw.uniform(0.5, 1.5) for _ in range(ROWS)),
            examples=_number_of_examples(),
            score=_draw.uniform(0.1, 0.9),
            loss=_draw.uniform(0.1, 0.9),
        )

    def write_data(self, folder: Path, pause_s: float) -> Path:
        """The member's CSV file; its name and its column ``note``, of which no plan speaks, are secrets too."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"ward-{self.file_token}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*COLUMNS, f"note-{self.file_token}"])
            numbers = (self.examples, repr(self.score), repr(self.loss), pause_s)
            for patient, reading, note in zip(self.patients, self.readings, self.notes, strict=True):
                writer.writerow([patient, repr(reading), *numbers, note])
        return path

    def needles(self) -> Iterator[Pattern]:
        """All of it, in every form."""
        yield from text_needle(f"{self.name}: file name", self.file_token)
        for number in (0, 1, ROWS - 1):
            yield from text_needle(f"{self.name}: patient {number}", self.patients[number])
            yield from text_needle(f"{self.name}: note {number}", self.notes[number])
            yield from number_needle(f"{self.name}: reading {number}", self.readings[number])
        yield from vector_needle(f"{self.name}: readings", self.readings)
        yield from number_needle(f"{self.name}: number of examples", self.examples)
        yield from number_needle(f"{self.name}: metric off the list", self.score)
        yield from number_needle(f"{self.name}: its own listed metric", self.loss)


def _number_of_examples() -> int:
    """Nine digits, and as a float64 six bytes that are not zero: a smaller number occurs by chance."""
    while struct.pack("<d", number := _draw.randrange(700_000_001, 999_999_999, 2)).count(0) > 2:
        pass
    return number


def initial_model() -> NDArray[np.float32]:
    """float32[ELEMENTS / 4, 4], every row the same four random numbers: any 32 bytes of it hold them all."""
    row = np.array([_draw.uniform(-2, 2) for _ in range(RUN)], dtype=np.float32)
    return np.tile(row, (ELEMENTS // RUN, 1))


def write_app(folder: Path) -> Path:
    """The Flower app: NumPy alone, so that a worker starts in a second."""
    package = folder / "canary_app"
    package.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "LICENSE").write_text("Public domain.\n")
    (package / "__init__.py").write_text("")
    (package / "client_app.py").write_text(CLIENT)
    (package / "server_app.py").write_text("from flwr.serverapp import ServerApp\n\napp = ServerApp()\n")
    return folder
