"""Complete blobs in an S3 bucket, or in what speaks like one. Trust zone: host.

The client (obstore) retries by itself, sends what is large in parts and ends a failed upload. What it holds in memory
is the window below for each blob that travels, whatever the blob's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from secrets import token_bytes, token_hex

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from coordinator.host.places import BlobPlace
from trusted.errors import Reason, RunError

_PART_BYTES = 8 << 20
_PARTS_AT_ONCE = 4
_TIMEOUT = timedelta(seconds=60)  # one request of at most one part
_RETRY_FOR = timedelta(seconds=20)
_DEFAULT_REGION = "us-east-1"


class S3Objects:
    """Implements :class:`coordinator.host.objects.ObjectStore`."""

    def __init__(self, place: BlobPlace) -> None:
        keys = {name.removeprefix("aws_"): value for name, value in place.read_credentials().items()}
        endpoint = {"endpoint": place.endpoint} if place.endpoint else {}
        config = {"region": place.region or _DEFAULT_REGION, **endpoint, **keys}
        self._store = S3Store(
            place.bucket,
            prefix=place.prefix or None,
            client_options={"timeout": _TIMEOUT, "allow_http": (place.endpoint or "").startswith("http://")},
            retry_config={"max_retries": 5, "retry_timeout": _RETRY_FOR},
            config=config,  # type: ignore[arg-type]  # a typed dict of its own
        )

    async def put(self, key: str, path: Path) -> None:
        """Store a file in parts; the object appears when the last one is in."""
        with _reaching():
            await obstore.put_async(self._store, key, path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)

    async def read(self, key: str, offset: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` from ``offset``."""
        with _reaching():
            data = bytes(await obstore.get_range_async(self._store, key, start=offset, length=size_bytes))
        if len(data) != size_bytes:
            raise RunError(Reason.STORE_AWAY, "bucket: an object is shorter than its blob")
        return data

    async def delete(self, key: str) -> None:
        """Delete the object, whether or not it is there."""
        with _reaching():
            await obstore.delete_async(self._store, key)

    async def probe(self) -> None:
        """Store a small object, read it and delete it: everything that a host needs to be allowed."""
        key, content = f"probe-{token_hex(8)}", token_bytes(16)
        with _reaching():
            await obstore.put_async(self._store, key, content)
        try:
            if await self.read(key, 0, len(content)) != content:
                raise RunError(Reason.STORE_AWAY, "bucket: an object reads otherwise than it was written")
        finally:
            await self.delete(key)


@contextmanager
def _reaching() -> Iterator[None]:
    """What the store and the network say becomes one reason, without their words: they quote keys and requests."""
    try:
        yield
    except (UnauthenticatedError, PermissionDeniedError, PermissionError):
        advice = "check the credentials and what they may do (get, put and delete objects)"
        raise RunError(Reason.STORE_AWAY, f"bucket: it does not let this host in; {advice}") from None
    except (NotFoundError, FileNotFoundError):
        raise RunError(Reason.STORE_AWAY, "bucket: no such bucket, or an object is missing from it") from None
    except (BaseError, OSError):
        advice = "check endpoint, region and bucket, and whether the store runs"
        raise RunError(Reason.STORE_AWAY, f"bucket: no answer that helps; {advice}") from None
