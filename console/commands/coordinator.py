"""``cloister coordinator``: the host that carries ciphertext. Trust zone: host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.options import CharterFile
from console.output import JsonOption, UserError, reporting
from trusted.errors import ProtocolError

app = typer.Typer(
    no_args_is_help=True, help="Run the coordinator host: it carries ciphertext and is trusted by nobody."
)


@app.command(
    epilog="Example: cloister coordinator serve --charter charter.dsse.json --state ./host --listen 0.0.0.0:8443"
)
def serve(
    charter: CharterFile,
    state: Annotated[Path, typer.Option(help="Folder for database, blobs and TLS keys.")] = Path("host"),
    listen: Annotated[str, typer.Option(help="address:port of the one TLS port; port 0 picks one.")] = "127.0.0.1:8443",
    door: Annotated[str, typer.Option(help="unix:/path, tcp:127.0.0.1:port or vsock:cid:port.")] = "",
    name: Annotated[list[str], typer.Option(help="DNS name or IP for the certificate; repeat.")] = [],  # noqa: B006
    database: Annotated[
        str, typer.Option(help="postgresql://user@host/name, shared by replicas; default: SQLite in --state.")
    ] = "",
    database_password: Annotated[Path | None, typer.Option(help="File with its password; default: ~/.pgpass.")] = None,
    blobs: Annotated[
        str, typer.Option(help="s3://bucket/prefix or folder:/path, shared by replicas; default: --state.")
    ] = "",
    s3_endpoint: Annotated[str, typer.Option(help="https://… of an S3 store that is not Amazon's.")] = "",
    s3_region: Annotated[str, typer.Option(help="The bucket's region.")] = "",
    s3_credentials: Annotated[
        Path | None, typer.Option(help="AWS credentials file; default: environment, web identity or instance.")
    ] = None,
    blob_listen: Annotated[
        str, typer.Option(help="address:port of a second port where blobs move for less work; default: none.")
    ] = "",
    blob_public_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Its port as workers reach it, if a proxy's.")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve Prometheus metrics on this loopback port.")] = None,
    collateral: Annotated[Path | None, typer.Option(help="A `cloister collateral` store to serve to sites.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Serve until Ctrl-C. Workers need the address and the CA file that it prints; aggregators need its door."""
    with reporting(json_output) as report:
        import asyncio

        from coordinator.door import Address
        from coordinator.host.config import LOCAL_NAMES, HostConfig
        from coordinator.host.events import log_to
        from coordinator.host.places import BlobPlace, Database
        from coordinator.host.server import HostReady, serve
        from trusted.allocator import keep_chunk_memory

        state = state.resolve()
        keeps = (blobs, s3_endpoint, s3_region, s3_credentials)
        try:
            config = HostConfig(
                state=state,
                listen=listen,
                door=Address.parse(door or f"unix:{state / 'door' / 'door.sock'}"),
                charter=charter,
                names=tuple(name) or LOCAL_NAMES,
                metrics_port=metrics_port,
                collateral_store=collateral,
                blob_listen=blob_listen or None,
                blob_public_port=blob_public_port,
                database=Database(database, database_password) if database or database_password else None,
                blobs=BlobPlace(blobs, s3_endpoint or None, s3_region or None, s3_credentials) if any(keeps) else None,
            )
        except ProtocolError as refusal:
            raise UserError(refusal.detail, "Correct the options; docs/operations.md shows them all in use.") from None

        def say_ready(ready: HostReady) -> None:
            report.data |= {"port": ready.port, "door": ready.door, "ca": str(ready.ca_pem), "state": str(state)}
            address = f"{listen.rpartition(':')[0]}:{ready.port}"
            second = f"{blob_listen.rpartition(':')[0]}:{ready.blob_port}"
            blob_lines = () if ready.blob_port is None else (f"  blobs over HTTP       {second}",)
            report.data["blob_port"] = ready.blob_port
            report.say(
                f"Serving on {address}. This host sees ciphertext, sizes and timing, and nothing else.",
                *blob_lines,
                f"  door for aggregators  {ready.door}",
                f"  CA file for workers   {ready.ca_pem}",
                f"  log                   {state / 'host.log'}",
            )

        keep_chunk_memory()
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (state / "host.log").open("a", encoding="utf-8") as log:
            log_to(log)
            asyncio.run(serve(config, say_ready))
        report.say("Stopped.")


@app.command(epilog="Example: cloister coordinator backup --state ./host --to /backup/host-monday")
def backup(
    to: Annotated[Path, typer.Option(help="A new folder for the copy.")],
    state: Annotated[Path, typer.Option(help="The host's state folder; the host may be running.")] = Path("host"),
    json_output: JsonOption = False,
) -> None:
    """Copy a host's state. To go back, stop the host, move its folder aside, put the copy there, and start it."""
    with reporting(json_output) as report:
        from coordinator.host.backup import back_up

        copied = back_up(state, to.resolve())
        report.data |= {"to": str(to), "blobs": copied.blobs, "bytes": copied.size_bytes, "left_out": copied.left_out}
        report.say(f"Copied the database, the TLS folder and {copied.blobs} blobs ({copied.size_bytes} bytes) to {to}.")
