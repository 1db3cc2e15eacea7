"""``grant``, ``revoke``, ``list`` and ``retire`` for models and sealed data alike. Trust zone: the member's own.

`model` and `data` offer the same four; what differs is the kind of key and who may have it.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from console.options import CharterFile, Key, PassphraseFd, PassphraseFile, PlanFile, ValidDays, Yes
from console.output import JsonOption, reporting


class AssuranceOption(StrEnum):
    """The four levels, as the command line spells them."""

    NONE = "none"
    PROVIDER = "provider"
    HARDWARE = "hardware"
    POSSESSION = "possession"


Store = Annotated[Path, typer.Option("--keys", help="The member's key store, a folder.", show_default=False)]
KeyId = Annotated[str, typer.Argument(help="The key's id, or how it begins.", show_default=False)]
GrantId = Annotated[str, typer.Argument(help="The grant's digest, or how it begins.", show_default=False)]
Measurements = Annotated[list[str], typer.Option(help="Only this of what the charter admits; repeat. Hex or file.")]

Scoring = Annotated[str, typer.Option(help="What a runtime may answer with it: ROWS:PER_MINUTE:TOTAL.")]


def add_commands(app: typer.Typer, group: str, kind: str) -> None:
    """Add the four commands for keys of ``kind`` (``model`` or ``dataset``) to ``app``, which is `cloister GROUP`."""
    example = f"Example: cloister {group} %s --keys ./keys --charter charter.dsse.json --key signing-key.pem"

    @app.command(epilog=f"{example} --plan plan.dsse.json" % "grant 5d1f0c")
    def grant(
        key_id: KeyId,
        keys: Store,
        charter: CharterFile,
        plan: PlanFile,
        key: Key,
        releases: Annotated[int, typer.Option(min=1, max=1_000_000, help="How often the key may leave.")] = 1,
        valid_days: ValidDays = 30,
        assurance: Annotated[AssuranceOption, typer.Option(help="What must stand behind it at least.")] = (
            AssuranceOption.HARDWARE
        ),
        measurement: Measurements = [],  # noqa: B006
        holder: Annotated[str, typer.Option(help="The member whose credential it holds. Default: this one.")] = "",
        scoring: Scoring = "",
        yes: Yes = False,
        passphrase_file: PassphraseFile = None,
        passphrase_fd: PassphraseFd = None,
        json_output: JsonOption = False,
    ) -> None:
        """Sign that attested TEEs of a plan may have this key, so often and so long; the broker acts on it at once."""
        with reporting(json_output) as report:
            from broker.records import KeyKind
            from broker.store import KeyStore
            from console import granting, keyfiles
            from console.charters import read_measurement
            from console.documents import confirm, load_charter, load_plan
            from trusted.attestation.roots import Assurance

            rules = load_charter(charter)
            verified = load_plan(plan, rules)
            measured = tuple(read_measurement(text) for text in measurement)
            limits = granting.read_scoring(scoring)
            terms = granting.Terms(releases, valid_days, Assurance(assurance.value), measured, holder, limits)
            with KeyStore.open(keys) as store:
                kept = granting.find_key(store, key_id, KeyKind(kind))
                document = granting.new_grant(store, kept, rules, verified, terms=terms)
                report.say(*granting.in_words(document, kept))
                if granting.in_vain(rules, document.assurance):
                    report.say(f"NOBODY CAN USE THIS: no root of the charter reaches --assurance {assurance.value}.")
                confirm("Sign this?", ask=not yes, report=report)
                signer = keyfiles.load_signer(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
                digest = granting.sign_grant(store, document, rules, verified, signer=signer)
            report.say(f"Granted: {digest.hex()}.", f"To take it back: cloister {group} revoke {digest.hex()[:12]}")
            report.data |= {"grant": digest.hex(), "terms": document.to_json()}

    @app.command(epilog=example % "revoke 7be2a9")
    def revoke(
        grant: GrantId,
        keys: Store,
        charter: CharterFile,
        key: Key,
        passphrase_file: PassphraseFile = None,
        passphrase_fd: PassphraseFd = None,
        json_output: JsonOption = False,
    ) -> None:
        """Take a grant back. A TEE that has the key already keeps it until it ends, or asks again and is refused."""
        with reporting(json_output) as report:
            from broker.records import KeyKind
            from broker.store import KeyStore
            from console import granting, keyfiles
            from console.documents import load_charter
            from trusted.documents.grant import Withdrawn

            signer = keyfiles.load_signer(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
            with KeyStore.open(keys) as store:
                kept = granting.find_grant(store, grant, KeyKind(kind))
                granting.withdraw(store, load_charter(charter), Withdrawn.GRANT, kept.digest, signer=signer)
            report.say(f"Revoked {kept.digest.hex()}. {kept.remaining} release(s) were left of it.")
            report.data |= {"grant": kept.digest.hex(), "remaining": kept.remaining}

    @app.command("list", epilog=f"Example: cloister {group} list --keys ./keys")
    def list_grants(keys: Store, json_output: JsonOption = False) -> None:
        """List the grants that were made, and how each stands."""
        with reporting(json_output) as report:
            from broker.records import KeyKind
            from broker.store import KeyStore
            from console.granting import grants_of
            from console.keys_shown import show_grants

            with KeyStore.open(keys) as store:
                show_grants(report, grants_of(store, KeyKind(kind)))

    @app.command(epilog=example % "retire 5d1f0c")
    def retire(
        key_id: KeyId,
        keys: Store,
        charter: CharterFile,
        key: Key,
        yes: Yes = False,
        passphrase_file: PassphraseFile = None,
        passphrase_fd: PassphraseFd = None,
        json_output: JsonOption = False,
    ) -> None:
        """Destroy this store's copy of a key for good, and end all that was granted of it.

        The file is overwritten and removed. SSDs, snapshots and backups may keep older blocks, a TEE that has the key
        keeps it until it ends, and other copies of the key (a member's sealing key opens a release again) stay.
        """
        with reporting(json_output) as report:
            from broker.records import KeyKind
            from broker.store import KeyStore
            from console import granting, keyfiles
            from console.documents import confirm, load_charter
            from trusted.documents.grant import Withdrawn

            with KeyStore.open(keys) as store:
                kept = granting.find_key(store, key_id, KeyKind(kind))
                report.say(f"The key of {kept.description}, {kept.id.hex()}, will be destroyed. There is no way back.")
                confirm("Destroy it?", ask=not yes, report=report)
                signer = keyfiles.load_signer(key, keyfiles.given_passphrase(passphrase_file, passphrase_fd))
                granting.withdraw(store, load_charter(charter), Withdrawn.KEY, kept.id, signer=signer)
            report.say(
                "Retired. This store hands it to nobody any more, and its log says so, signed.",
                "Not reached: older blocks on an SSD, snapshots, backups, and TEEs that hold the key now.",
            )
            report.data |= {"key": kept.id.hex()}
