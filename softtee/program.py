"""Which code runs in which enclave: what is measured is exactly what can be imported. Trust zone: the platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trusted.evidence.boot import Role

REPOSITORY = Path(__file__).resolve().parent.parent

# Names that belong to this repository. An enclave imports them from its measured archive or not at all, wherever else
# they may lie; so site-packages may hold an installed copy without being able to run it.
PROJECT_NAMES = (
    "trusted",
    "coordinator",
    "worker",
    "recipient",
    "protos",
    "softtee",
    "console",
    "broker",
    "simulations",
    "benchmarks",
    "tests",
)


@dataclass(frozen=True, slots=True)
class Program:
    """One program for an enclave.

    Attributes:
        root: the directory that holds the packages.
        packages: directories and single ``.py`` files below ``root`` that are measured and importable.
        entry: ``module:function``, called with one ``trusted.evidence.boot.Boot``; its int is the exit status.
        warm: site modules worth compiling ahead (softtee/bytecode.py); absence of one is no error.
    """

    root: Path
    packages: tuple[str, ...]
    entry: str
    warm: tuple[str, ...] = ()


_TRUSTED = (
    *("cryptography.hazmat.primitives.asymmetric.ed25519", "cryptography.hazmat.primitives.hpke", "cryptography.x509"),
    *("numpy", "rfc8785", "securesystemslib.dsse", "securesystemslib.signer"),
)
# torch.optim imports torch._dynamo when the first optimiser is made: a third of all that a training run imports.
_TRAINING = ("torch", "torch.optim", "torch.utils.data", "torch._dynamo", "flwr.app", "flwr.clientapp")
_TRAINING_FLOWER = ("flwr.common.config", "flwr.supercore.object_ref", "flwr.supercore.task_identity")

PROGRAMS: Mapping[Role, Program] = {
    Role.AGGREGATOR: Program(
        REPOSITORY,
        (
            "trusted",
            "coordinator/__init__.py",
            "coordinator/door.py",
            "coordinator/door_socket.py",
            "coordinator/enclave",
        ),
        "coordinator.enclave.__main__:main",
        _TRUSTED,
    ),
    Role.WORKER: Program(
        REPOSITORY,
        ("trusted", "protos/__init__.py", "protos/chunks.py", "protos/v1", "worker"),
        "worker.__main__:main",
        (*_TRUSTED, "grpc", "google.protobuf.message", *_TRAINING, *_TRAINING_FLOWER),
    ),
    Role.RECIPIENT: Program(
        REPOSITORY,
        ("trusted", "protos/__init__.py", "protos/chunks.py", "protos/v1", "worker", "recipient"),
        "recipient.__main__:main",
        (*_TRUSTED, "grpc.aio", "google.protobuf.message", *_TRAINING, *_TRAINING_FLOWER),
    ),
}
