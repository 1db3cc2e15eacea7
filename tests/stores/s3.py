"""A real server that speaks S3, for tests: moto's, on loopback, with a bucket for whoever asks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

from coordinator.host.places import BlobPlace

CREDENTIALS = "[default]\naws_access_key_id = test\naws_secret_access_key = secret-of-the-bucket\n"
_REGION = "us-east-1"


@dataclass
class Server:
    """One running server."""

    endpoint: str
    credentials: Path
    buckets: int = 0

    @property
    def client(self) -> object:
        """Another client than the one that is tested."""
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "secret"}
        return boto3.client("s3", endpoint_url=self.endpoint, region_name=_REGION, **keys)

    def new_place(self) -> BlobPlace:
        """An empty bucket, and a prefix in it."""
        self.buckets += 1
        bucket = f"bucket-{self.buckets}"
        self.client.create_bucket(Bucket=bucket)  # type: ignore[attr-defined]
        return BlobPlace(f"s3://{bucket}/cloister/blobs", self.endpoint, _REGION, self.credentials)

    def keys(self, place: BlobPlace) -> set[str]:
        """What lies in the bucket of ``place``."""
        listed = self.client.list_objects_v2(Bucket=place.bucket)  # type: ignore[attr-defined]
        return {item["Key"] for item in listed.get("Contents", [])}


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server of one's own."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    credentials = folder / "credentials"
    credentials.write_text(CREDENTIALS)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Server(f"http://{host}:{port}", credentials)
    finally:
        server.stop()
