"""Where replicas of a host share what they know: a database, and a place for blobs. Trust zone: host.

Secrets are named by file and read when they are used: they stand in no argument, no environment and no log.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from trusted.errors import Reason, RunError

_MAX_PASSWORD_BYTES = 1 << 12
_PROFILE = "default"
_CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


@dataclass(frozen=True, slots=True)
class Database:
    """A PostgreSQL database: ``postgresql://user@host:port/name``, as libpq spells it, without a password.

    ``password_file``: its first line is the password. Without one, the client's own ways apply (``~/.pgpass``, peer
    authentication).
    """

    url: str
    password_file: Path | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("postgresql", "postgres"):
            raise RunError(Reason.MALFORMED, "host.database.url: postgresql://user@host:port/name expected")
        if parts.password is not None or "password" in parse_qs(parts.query):
            advice = "put it into a file and name that in host.database.password_file"
            raise RunError(Reason.MALFORMED, f"host.database.url: no password belongs here; {advice}")

    def read_password(self) -> str | None:
        """The password, or None where no file was named.

        Raises:
            RunError: the file cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            with self.password_file.open("rb") as file:
                return file.read(_MAX_PASSWORD_BYTES).decode().split("\n", 1)[0].rstrip("\r")
        except (OSError, ValueError):
            raise RunError(Reason.MISSING_FIELD, "host.database.password_file: cannot be read as text") from None


@dataclass(frozen=True, slots=True)
class BlobPlace:
    """Where complete blobs lie: ``s3://bucket/prefix``, or ``folder:/path`` that every replica mounts.

    ``endpoint``: ``https://…`` of a store that is not Amazon's. ``credentials``: an AWS credentials file, of which the
    profile ``default`` counts; without one, the client's own ways apply (environment, web identity, instance).
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    credentials: Path | None = None

    def __post_init__(self) -> None:
        named = self.bucket if self.is_s3 else self.url.removeprefix("folder:").startswith("/")
        if not named or not (self.is_s3 or self.url.startswith("folder:")):
            raise RunError(Reason.MALFORMED, "host.blobs.url: s3://bucket/prefix or folder:/path expected")
        if self.endpoint is not None and urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise RunError(Reason.MALFORMED, "host.blobs.endpoint: http:// or https:// expected")
        if not self.is_s3 and any((self.endpoint, self.region, self.credentials)):
            raise RunError(Reason.MALFORMED, "host.blobs: endpoint, region and credentials belong to s3:// alone")

    @property
    def is_s3(self) -> bool:
        """The blobs lie in a bucket."""
        return self.url.startswith("s3://")

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return urlsplit(self.url).netloc

    @property
    def prefix(self) -> str:
        """What stands before every key, without slashes around it."""
        return urlsplit(self.url).path.strip("/")

    @property
    def folder(self) -> Path:
        """The folder."""
        return Path(self.url.removeprefix("folder:"))

    def read_credentials(self) -> Mapping[str, str]:
        """The keys of the named file by their AWS names; empty where none was named.

        Raises:
            RunError: the file cannot be read, or has no such profile.
        """
        if self.credentials is None:
            return {}
        parser = configparser.RawConfigParser()
        try:
            with self.credentials.open(encoding="utf-8") as file:
                parser.read_file(file)
            found = {key: value for key, value in parser[_PROFILE].items() if key in _CREDENTIALS}
        except (OSError, ValueError, KeyError, configparser.Error):
            found = {}
        if not set(_CREDENTIALS[:2]) <= set(found):
            rule = "an AWS credentials file with [default], aws_access_key_id and aws_secret_access_key expected"
            raise RunError(Reason.MISSING_FIELD, f"host.blobs.credentials: {rule}")
        return found
