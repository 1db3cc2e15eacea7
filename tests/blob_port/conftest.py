"""Coordinators with two ports, made and ended for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from coordinator.host.tls import server_identity
from tests.blob_port.servers import (
    DATA,
    BlobPort,
    Coordinator,
    FirstPort,
    Store,
    TlsFiles,
)

Make = Callable[..., Coordinator]


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory, now: datetime) -> TlsFiles:
    folder = tmp_path_factory.mktemp("tls")
    return TlsFiles(server_identity(folder, ["localhost"], now), folder)


@pytest.fixture(scope="session")
def other_tls(tmp_path_factory: pytest.TempPathFactory, now: datetime) -> TlsFiles:
    """For the same name, of another CA."""
    folder = tmp_path_factory.mktemp("other-tls")
    return TlsFiles(server_identity(folder, ["localhost"], now), folder)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make coordinators; ``scripts`` are for the first connections to the blob port."""
    made: list[Coordinator] = []
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def start(
        *scripts: Any, data: bytes = DATA, tls: TlsFiles | None = None, empty: bool = False, **port: Any
    ) -> Coordinator:
        store = Store(bytearray(), len(data)) if empty else Store.of(data)
        second = BlobPort(store, *scripts, **({"context": tls.context if tls else None} | port))
        first = FirstPort(store, second.number, tls.credentials if tls else None)
        made.append(Coordinator(store, second, first, tls.ca_pem if tls else None))
        return made[-1]

    yield start
    for coordinator in made:
        coordinator.close()


@pytest.fixture(params=["plaintext", "TLS"])
def maybe_tls(request: pytest.FixtureRequest, tls: TlsFiles) -> TlsFiles | None:
    return tls if request.param == "TLS" else None
