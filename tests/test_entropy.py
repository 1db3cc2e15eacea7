"""Two clones of one prepared process share no secret: each is drawn when it is needed, from the kernel.

A fork stands for the clone of a machine here. What a fork does not show, that OpenSSL's own generator would run on in
both clones of a machine, is shown by drawing everything from a kernel that is replaced: equal streams, equal secrets.
"""

from __future__ import annotations

import ast
import json
import os
import random
from collections.abc import Callable, Iterator
from hashlib import shake_256
from pathlib import Path

import numpy as np
import pytest

from coordinator.enclave.record import RecoveryKey
from softtee.chip import Chip, SoftwareRoot
from tests.world import LAYOUT, World
from trusted.blob import BlobKind, ContentKey, seal_vector
from trusted.exchange import AGGREGATOR, Exchanged
from trusted.hpke import SealingKey
from trusted.wire import unpack

ROOT = Path(__file__).parents[1]
_PACKAGES = ("trusted", "coordinator/enclave", "worker")
_OWN_GENERATORS = ("Ed25519PrivateKey", "X25519PrivateKey", "MLKEM768PrivateKey", "AESGCM")
_NOT_FOR_SECRETS = frozenset({"random", "uuid"})


@pytest.fixture(scope="module")
def world(software_root: SoftwareRoot, chip: Chip) -> World:
    return World(software_root, chip)


def secrets_of(world: World) -> dict[str, str]:
    """One of each secret that an enclave draws, by name."""
    aggregator, worker = world.identity("aggregator"), world.worker_channel("site-1")
    key = ContentKey.generate()
    header = Exchanged.of(world.plan).header(BlobKind.MODEL, 1, AGGREGATOR)
    vector = np.zeros(LAYOUT.elements, "<f4")
    sealed = b"".join(seal_vector(header, vector, key=key, signing_key=aggregator.signing_key))
    prefix = header.prefix_bytes
    found = {
        "signing key": aggregator.signing_key.private_bytes_raw(),
        "boot id": aggregator.boot,
        "sealing key": SealingKey.generate().to_bytes(),
        "nonce of a hello": unpack(worker.begin(), "cloister/hello/v1", 3)[0],
        "session secret": worker._secret,
        "content key": key.secret,
        "iv of a blob": sealed[prefix - 64 : prefix - 32],
        "iv of a segment": sealed[prefix + 4 : prefix + 16],
        "recovery key": RecoveryKey.generate().secret,
        "state nonce": RecoveryKey(bytes(32)).seal(bytes(32), 1, b"state")[-60:],
    }
    return {name: value.hex() for name, value in found.items()}


def clone(act: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What ``act`` gives in a fork of this process."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(theirs, json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    return dict(json.loads(said))


def test_two_clones_of_a_prepared_process_share_no_secret(world: World) -> None:
    secrets_of(world)  # whatever seeds itself at its first use has done so
    clones = [clone(lambda: secrets_of(world)) for _ in range(2)] + [secrets_of(world)]
    assert len(clones[0]) == 10
    for name in clones[0]:
        assert len({one[name] for one in clones}) == 3, name


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Puts a stream that follows from a seed in the place of the kernel's generator."""

    def replace(seed: bytes) -> None:
        def stream() -> Iterator[bytes]:
            number = 0
            while True:
                number += 1
                yield shake_256(seed + number.to_bytes(8, "big")).digest(128)

        drawn = stream()
        for place in ((random, "_urandom"), (os, "urandom")):
            monkeypatch.setattr(*place, lambda size: next(drawn)[:size])

    return replace


def test_every_secret_comes_from_the_kernel_and_from_nothing_that_was_seeded_before(
    world: World, replaced: Callable[[bytes], None]
) -> None:
    found = []
    for seed in (b"one", b"one", b"two"):
        replaced(seed)
        found.append(secrets_of(world))
    assert found[0] == found[1]
    assert all(found[0][name] != found[2][name] for name in found[0])


def _sources() -> Iterator[tuple[str, ast.Module]]:
    for package in _PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def _drawn_elsewhere(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in _NOT_FOR_SECRETS]
        elif isinstance(node, ast.ImportFrom) and node.module in _NOT_FOR_SECRETS:
            found.append(node.module)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in ("generate", "generate_key") and node.value.id in _OWN_GENERATORS:
                found.append(f"{node.value.id}.{node.attr}")
            if (node.value.id, node.attr) == ("np", "random"):
                found.append("np.random")
    return found


def test_no_enclave_draws_from_a_generator_that_seeds_itself_once() -> None:
    assert {name: found for name, tree in _sources() if (found := _drawn_elsewhere(tree))} == {}
    assert _drawn_elsewhere(ast.parse("import random\nEd25519PrivateKey.generate()\nnp.random.rand()")) == [
        "random",
        "Ed25519PrivateKey.generate",
        "np.random",
    ]
