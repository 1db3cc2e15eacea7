"""A real PostgreSQL server for tests: its own data, a socket in its own folder, no port, gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coordinator.host.places import Database

_VERSIONS = Path("/usr/lib/postgresql")
PASSWORD = "correct horse battery staple"
_USER = "nobody"  # initdb and postgres refuse to be root
_QUICK = ("-c", "fsync=off", "-c", "listen_addresses=", "-c", "max_connections=60")


def installed() -> Path | None:
    """The folder of the newest server's programs; None where none is installed."""
    found = sorted(_VERSIONS.glob("*/bin/initdb"), key=lambda path: int(path.parents[1].name))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@dataclass
class Server:
    """One running server."""

    programs: Path
    folder: Path
    databases: int = 0

    @property
    def password_file(self) -> Path:
        """Nobody comes in without the password in this file."""
        return self.folder / "password"

    def new_database(self) -> Database:
        """An empty database."""
        self.databases += 1
        self.sql(f"CREATE DATABASE test_{self.databases}")
        return Database(f"postgresql://cloister@/test_{self.databases}?host={self.folder}", self.password_file)

    def sql(self, command: str, database: str = "postgres") -> str:
        """Run ``command`` as its administrator; what it prints."""
        psql = [self.programs / "psql", "-h", self.folder, "-U", "cloister", "-d", database, "-AtqX", "-c", command]
        environment = {**os.environ, "PGPASSWORD": self.password_file.read_text()}
        return subprocess.run(psql, check=True, capture_output=True, text=True, env=environment).stdout

    def start(self) -> None:
        self._control("start", "-o", f"-k {self.folder} {' '.join(_QUICK)}", "-l", str(self.folder / "log"))

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def _control(self, *arguments: str) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", *arguments)

    def run(self, program: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", _USER, "--"] if os.geteuid() == 0 else []
        command = [*as_user, str(self.programs / program), *arguments]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def running(programs: Path) -> Iterator[Server]:
    """A server of one's own."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path has at most 107 bytes
    if os.geteuid() == 0:
        shutil.chown(folder, _USER)
    server = Server(programs, folder)
    try:
        server.password_file.write_text(PASSWORD)
        login = ("-U", "cloister", "-A", "scram-sha-256", f"--pwfile={server.password_file}")
        server.run("initdb", "-D", str(folder / "data"), *login, "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
