"""A real server that speaks S3, for tests: moto's, in a process and an environment of its own, on loopback."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coordinator.host.places import BlobPlace

CREDENTIALS = "[default]\naws_access_key_id = test\naws_secret_access_key = secret-of-the-bucket\n"
PROGRAM = Path(sys.prefix) / "s3" / "bin" / "moto_server"  # made by `make test`
_REGION = "us-east-1"
_START_S = 60.0


@dataclass
class Server:
    """One running server."""

    endpoint: str
    credentials: Path
    buckets: int = 0

    def new_place(self) -> BlobPlace:
        """An empty bucket, and a prefix in it."""
        self.buckets += 1
        bucket = f"bucket-{self.buckets}"
        self._ask("PUT", bucket)
        return BlobPlace(f"s3://{bucket}/cloister/blobs", self.endpoint, _REGION, self.credentials)

    def keys(self, place: BlobPlace) -> set[str]:
        """What lies in the bucket of ``place``, as another client than the tested one sees it."""
        return set(re.findall("<Key>(.*?)</Key>", self._ask("GET", f"{place.bucket}?list-type=2")))

    def _ask(self, method: str, what: str) -> str:
        request = urllib.request.Request(f"{self.endpoint}/{what}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text: str = answer.read().decode()
        return text


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server of one's own."""
    credentials = folder / "credentials"
    credentials.write_text(CREDENTIALS)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(PROGRAM.with_name("python")), str(PROGRAM), "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(port, process)
        yield Server(f"http://127.0.0.1:{port}", credentials)
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the S3 server of the tests did not start")
