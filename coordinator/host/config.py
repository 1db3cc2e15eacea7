"""How one host is set up: a JSON file, read once. Trust zone: host. It holds no secret."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

from coordinator.door import Address
from coordinator.host.limits import Limits
from coordinator.host.places import BlobPlace, Database
from trusted.errors import Reason, RunError
from trusted.wire import Fields

_MAX_CONFIG_BYTES = 1 << 20
PLAINTEXT = "http://"
_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class HostConfig:
    """Where the host listens and keeps its state.

    ``listen``: ``address:port`` of the one TLS port (0 picks one); ``http://127.0.0.1:port`` where a proxy on this
    machine has the TLS, which it may have on loopback alone. ``names``: the DNS names and IP addresses under
    which workers reach it. ``charter``: path of the charter's envelope, by which orders are verified. ``certificate``
    and ``certificate_key``: PEM files of one's own; without them the host makes a CA and a certificate in ``state``.
    ``collateral_store``: the folder of ``cloister collateral``, whose dates the metrics show and whose
    files sites may fetch. ``blob_listen``: ``address:port`` of a second port, where blobs move over HTTP for less work
    than over gRPC, in plaintext exactly where ``listen`` is; without it they move through the first port alone.
    ``blob_public_port``: the port under which workers reach that one, if it is a proxy's.
    ``database``, ``blobs``: where this host and its replicas keep what they share; without them
    all is in ``state``.
    """

    state: Path
    listen: str
    door: Address
    charter: Path
    names: tuple[str, ...] = LOCAL_NAMES
    certificate: Path | None = None
    certificate_key: Path | None = None
    metrics_port: int | None = None
    collateral_store: Path | None = None
    blob_listen: str | None = None
    blob_public_port: int | None = None
    limits: Limits = field(default_factory=Limits)
    database: Database | None = None
    blobs: BlobPlace | None = None

    def __post_init__(self) -> None:
        if self.database is not None and self.blobs is None:
            rule = "a host whose state is shared keeps its blobs where its replicas find them"
            raise RunError(Reason.MISSING_FIELD, f"host.blobs: needed beside host.database; {rule}")
        if self.blob_public_port is not None and self.blob_listen is None:
            rule = "a port that a proxy shows leads to one of this host"
            raise RunError(Reason.MISSING_FIELD, f"host.blob_listen: needed beside host.blob_public_port; {rule}")
        if self.blob_listen is not None and self.blob_listen.startswith(PLAINTEXT) != self.listen.startswith(PLAINTEXT):
            rule = "either both ports have TLS, or a proxy has it for both"
            raise RunError(Reason.MALFORMED, f"host.blob_listen: http:// as host.listen, or neither; {rule}")

    @classmethod
    def load(cls, path: Path) -> HostConfig:
        """The configuration in the JSON file ``path``; relative paths are relative to that file.

        Raises:
            ProtocolError: the file cannot be read, or a field is missing, unknown or of another type.
        """
        try:
            with path.open("rb") as file:
                value = json.loads(file.read(_MAX_CONFIG_BYTES))
        except OSError as error:
            raise RunError(Reason.MISSING_FIELD, f"host configuration {path}: {error.strerror}") from None
        except ValueError:
            raise RunError(Reason.MALFORMED, f"host configuration {path}: not JSON") from None
        with Fields(value, "host") as source:
            return _read(source, path.parent)


def _read(source: Fields, folder: Path) -> HostConfig:
    certificate, key = _optional_path(source, "certificate", folder), _optional_path(source, "certificate_key", folder)
    if (certificate is None) != (key is None):
        raise RunError(Reason.MISSING_FIELD, "host.certificate, host.certificate_key: both or neither")
    return HostConfig(
        state=folder / source.text("state"),
        listen=_listen(source.text("listen")),
        door=Address.parse(source.text("door")),
        charter=folder / source.text("charter"),
        names=tuple(str(name) for name in source.items("names")) if source.has("names") else LOCAL_NAMES,
        certificate=certificate,
        certificate_key=key,
        metrics_port=_optional_port(source, "metrics_port"),
        collateral_store=_optional_path(source, "collateral_store", folder),
        blob_listen=_listen(source.text("blob_listen"), "blob_listen") if source.has("blob_listen") else None,
        blob_public_port=_optional_port(source, "blob_public_port", low=1),
        limits=_read_limits(source),
        database=_read_database(source, folder),
        blobs=_read_blobs(source, folder),
    )


def _listen(text: str, name: str = "listen") -> str:
    address = text.removeprefix(PLAINTEXT)
    if address != text and address.rpartition(":")[0] not in _LOOPBACK:
        raise RunError(Reason.MALFORMED, f"host.{name}: http:// is for 127.0.0.1, [::1] and localhost; elsewhere TLS")
    return text


def _optional_port(source: Fields, key: str, low: int = 0) -> int | None:
    return source.integer(key, low=low, high=65535) if source.has(key) else None


def _optional_path(source: Fields, key: str, folder: Path) -> Path | None:
    return folder / source.text(key) if source.has(key) else None


def _read_database(source: Fields, folder: Path) -> Database | None:
    if not source.has("database"):
        return None
    with Fields(source.mapping("database"), "host.database") as database:
        return Database(database.text("url"), _optional_path(database, "password_file", folder))


def _read_blobs(source: Fields, folder: Path) -> BlobPlace | None:
    if not source.has("blobs"):
        return None
    with Fields(source.mapping("blobs"), "host.blobs") as place:
        return BlobPlace(
            url=place.text("url"),
            endpoint=place.text("endpoint") if place.has("endpoint") else None,
            region=place.text("region") if place.has("region") else None,
            credentials=_optional_path(place, "credentials", folder),
        )


def _read_limits(source: Fields) -> Limits:
    if not source.has("limits"):
        return Limits()
    with Fields(source.mapping("limits"), "host.limits") as limits:
        changed: dict[str, float] = {}
        for entry in fields(Limits):
            if not limits.has(entry.name):
                continue
            whole = isinstance(entry.default, int)
            changed[entry.name] = (
                limits.integer(entry.name, low=1, high=1 << 53)
                if whole
                else limits.number(entry.name, low=0.01, high=86_400)
            )
        return Limits(**changed)  # type: ignore[arg-type]  # each value has the type of its field's default
