"""``cloister keys``: a member's key store, and the broker that hands keys out. Trust zone: the member's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.commands.granting import Store
from console.options import Ca, CharterFile, Coordinator, PassphraseFd, PassphraseFile, PlanFile, Proxy
from console.output import JsonOption, reporting

if TYPE_CHECKING:
    from broker.service import Broker

app = typer.Typer(no_args_is_help=True, help="Keep a member's keys, and hand them to attested TEEs alone.")


@app.command(epilog="Example: cloister keys init --keys ./keys --member hospital-a --passphrase-file pass.txt")
def init(
    keys: Store,
    member: Annotated[str, typer.Option(help="Whose store it is.", show_default=False)],
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase.")] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Make an empty key store. Adding keys needs no passphrase; handing them out does."""
    with reporting(json_output) as report:
        from broker.store import STORE_KEY
        from console import keyfiles
        from console.key_brokerage import make_store

        secret = keyfiles.given_passphrase(passphrase_file, passphrase_fd)
        if secret is None and passphrase:
            secret = keyfiles.ask_passphrase("New passphrase", confirm=True)
        make_store(keys, member, secret)
        report.say(f"Made the key store of {member} in {keys}.", f"Keep a copy of {STORE_KEY} in a safe place.")
        if secret is None:
            report.say("It has no passphrase: whoever reads the folder has every key in it.")
        report.data |= {"keys": str(keys), "member": member}


@app.command(
    epilog="Example: cloister keys serve --keys ./keys --listen 0.0.0.0:8445 --name broker.example "
    "--passphrase-file pass.txt"
)
def serve(
    keys: Store,
    listen: Annotated[
        str, typer.Option(help="address:port, TLS; port 0 picks one. http://127.0.0.1:port behind a proxy.")
    ] = "127.0.0.1:8445",
    name: Annotated[list[str], typer.Option(help="DNS name or IP for the certificate; repeat.")] = [],  # noqa: B006
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Serve until Ctrl-C: hand keys to attested TEEs, by the store's grants, as they stand at that moment."""
    with reporting(json_output) as report:
        import asyncio

        from broker.holdings import StoreHoldings
        from broker.service import Listening
        from broker.service import serve as serve_keys
        from broker.store import STORE_KEY, KeyStore
        from console import keyfiles
        from coordinator.host.config import LOCAL_NAMES
        from coordinator.host.events import log_to

        def say_ready(broker: Broker) -> None:
            address = f"{listen.rpartition(':')[0]}:{broker.port}"
            report.data |= {"port": broker.port, "ca": str(broker.ca_pem) if broker.ca_pem else None}
            report.say(f"Serving keys on {address}.", f"  log  {keys / 'broker.log'}")
            if broker.ca_pem is not None:
                report.say(f"  CA file for those who ask  {broker.ca_pem}")

        private = keyfiles.load_sealing_key(keys / STORE_KEY, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        with KeyStore.open(keys) as store, (keys / "broker.log").open("a", encoding="utf-8") as log:
            log_to(log)
            listening = Listening(listen, keys / "tls", tuple(name) or LOCAL_NAMES)
            asyncio.run(serve_keys(store, StoreHoldings(store, private), listening, say_ready))
        report.say("Stopped.")


@app.command(
    "import",
    epilog="Example: cloister keys import --keys ./keys --charter charter.dsse.json --plan plan.dsse.json "
    "--key sealing-key.pem --coordinator coordinator.example:8443 --ca ca.pem",
)
def import_model(
    keys: Store,
    charter: CharterFile,
    plan: PlanFile,
    key: Annotated[Path, typer.Option(help="The member's sealing-key.pem.", show_default=False)],
    coordinator: Coordinator,
    ca: Ca = None,
    proxy: Proxy = "",
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    json_output: JsonOption = False,
) -> None:
    """Put the key of a released model into the store. The member must be a recipient of the plan."""
    with reporting(json_output) as report:
        from broker.store import KeyStore
        from console import keyfiles, ordering
        from console.key_brokerage import import_model_key

        sealing_key = keyfiles.load_sealing_key(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
        with KeyStore.open(keys) as store, ordering.desk(charter, plan, ordering.Host(coordinator, ca, proxy)) as desk:
            kept = import_model_key(store, desk, sealing_key)
        report.say(
            f"The store now has the key of {kept.description}: {kept.id.hex()}.",
            f"Next: cloister model grant {kept.id.hex()[:12]}",
        )
        report.data |= {"key": kept.id.hex(), "description": kept.description}


@app.command("list", epilog="Example: cloister keys list --keys ./keys")
def list_keys(keys: Store, json_output: JsonOption = False) -> None:
    """List the keys of a store and what was granted of them."""
    with reporting(json_output) as report:
        from broker.store import KeyStore
        from console.keys_shown import show_grants, show_keys

        with KeyStore.open(keys) as store:
            report.say(f"The key store of {store.member}.")
            report.heading("Keys")
            show_keys(report, store.kept_keys())
            report.heading("Grants")
            show_grants(report, store.grants())
            report.data["member"] = store.member


@app.command(epilog="Example: cloister keys log --keys ./keys")
def log(keys: Store, json_output: JsonOption = False) -> None:
    """Show which key left when and to what, who was refused and why, and what the member took back."""
    with reporting(json_output) as report:
        from broker.store import KeyStore
        from console.keys_shown import show_log

        with KeyStore.open(keys) as store:
            show_log(report, store.log())
