"""A site whose data is sealed, and the key broker of its member, set up by the commands that its steward would use."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from console import keyfiles
from tests.console.processes import ROOT, Consortium, Running, made


@dataclass
class SealedSite:
    """One site's sealed data and its store, and a broker that serves until it is ended."""

    consortium: Consortium
    site: str
    plan: str
    key: str = ""
    broker: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Seal the data by the command; nobody is granted its key yet."""
        made("keys", "init", "--keys", self.keys, "--member", self.site)
        data = ROOT / "data" / "rand_hie" / f"{self.site}.csv"
        papers = ["--plan", self.consortium / f"{self.plan}.dsse.json", "--member", self.site, "--keys", self.keys]
        self.key = made("data", "seal", data, *papers, "--out", self.file).data["key"]

    @property
    def file(self) -> Path:
        return self.consortium / self.site / "data.sealed"

    @property
    def keys(self) -> Path:
        return self.consortium / f"keys-{self.site}"

    def serve(self) -> list[object]:
        """Start the broker; what ``worker join`` needs to open this data."""
        listen = ["--keys", self.keys, "--listen", "127.0.0.1:0"]
        self.broker.append(self.consortium.start(f"broker-{self.site}", "keys", "serve", *listen))
        port = self.broker[-1].until_said(r"Serving keys on 127[.]0[.]0[.]1:([0-9]+)")
        ca = ["--key-broker-ca", self.keys / "tls" / "ca.pem"]
        return ["--data", self.file, "--key-broker", f"127.0.0.1:{port}", *ca]

    def grant(self) -> None:
        """Let the plan's worker of this site have the key, once."""
        papers = self.consortium.papers(self.plan)
        key = ["--key", self.consortium / self.site / keyfiles.SIGNING_KEY]
        made("data", "grant", self.key[:12], "--keys", self.keys, *papers, *key, "--assurance", "none", "--yes")
